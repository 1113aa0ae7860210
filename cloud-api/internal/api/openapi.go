package api

import (
	_ "embed"

	"github.com/gofiber/fiber/v2"
)

//go:embed openapi.json
var openapi []byte

// openapi answers with the description of this API.
func (s *Server) openapi(r *request) error {
	r.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
	return r.Send(openapi)
}
