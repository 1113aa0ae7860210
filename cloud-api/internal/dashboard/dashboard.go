// Package dashboard is the page that people look at. It is a few static files
// inside the binary: it fetches nothing from anywhere but the API beside it, and
// a browser that obeys its policy could not.
package dashboard

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"

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
		h, err := file(mediaType(name), b)
		if err != nil {
			return fmt.Errorf("compress %s: %w", name, err)
		}
		at := strings.TrimPrefix(name, "assets")
		if at == "/index.html" {
			at = "/"
		}
		r.Get(at, h)
		return nil
	})
}

// mediaType does not leave to the machine's own tables what its browsers get.
func mediaType(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".html":
		return "text/html; charset=utf-8"
	}
	return mime.TypeByExtension(path.Ext(name))
}

// file answers with b, compressed for those who take it, or with 304 to a
// browser that has it.
func file(kind string, b []byte) (fiber.Handler, error) {
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(b)
	tag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderETag, tag)
		c.Set(fiber.HeaderCacheControl, "no-cache")
		c.Set(fiber.HeaderVary, fiber.HeaderAcceptEncoding)
		if c.Get(fiber.HeaderIfNoneMatch) == tag {
			return c.SendStatus(http.StatusNotModified)
		}
		c.Set(fiber.HeaderContentType, kind)
		if c.AcceptsEncodings("gzip") == "gzip" && c.Get(fiber.HeaderAcceptEncoding) != "" {
			c.Set(fiber.HeaderContentEncoding, "gzip")
			return c.Send(z.Bytes())
		}
		return c.Send(b)
	}, nil
}
