// Package dashboard is the page that people look at. It is a few static files
// inside the binary: it fetches nothing from anywhere but the API beside it.
package dashboard

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"

	"github.com/gofiber/fiber/v2"
)

//go:embed assets
var assets embed.FS

// Routes serves the page at / and its files beside it.
func Routes(r fiber.Router) error {
	return fs.WalkDir(assets, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := assets.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		at := "/" + path.Base(name)
		if at == "/index.html" {
			at = "/"
		}
		r.Get(at, file(mime.TypeByExtension(path.Ext(name)), b))
		return nil
	})
}

// file answers with b, or with 304 to a browser that has it.
func file(kind string, b []byte) fiber.Handler {
	sum := sha256.Sum256(b)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderETag, tag)
		c.Set(fiber.HeaderCacheControl, "no-cache")
		if c.Get(fiber.HeaderIfNoneMatch) == tag {
			return c.SendStatus(http.StatusNotModified)
		}
		c.Set(fiber.HeaderContentType, kind)
		return c.Send(b)
	}
}
