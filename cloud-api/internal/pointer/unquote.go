package pointer

import "encoding/json"

// unquote resolves the escapes of a string in JSON.
func unquote(raw []byte) (s string, ok bool) {
	quoted := make([]byte, 0, len(raw)+2)
	quoted = append(append(append(quoted, '"'), raw...), '"')
	return s, json.Unmarshal(quoted, &s) == nil
}
