package config

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/knadh/koanf/v2"
)

// Size is a number of bytes, written like 64MiB, 1.5GiB, 200kB or 1048576.
type Size int64

// Duration is a time.Duration that is written with its unit, like 250ms or 720h.
type Duration time.Duration

// D returns d as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// units are tried in this order: a suffix of another one comes after it.
var units = []struct {
	name  string
	bytes float64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
	{"", 1},
}

// String writes the size with the largest binary unit that divides it.
func (s Size) String() string {
	for i := 3; i >= 0; i-- {
		if unit := int64(units[i].bytes); s != 0 && int64(s)%unit == 0 {
			return strconv.FormatInt(int64(s)/unit, 10) + units[i].name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// String writes the duration as time.Duration does, without needless zeros.
func (d Duration) String() string {
	s := d.D().String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var (
	errSize     = errors.New("want a size like 64MiB, 500MB or a number of bytes")
	errDuration = errors.New("want a time with its unit, like 250ms, 30s or 720h")
	errText     = errors.New("want text")
	errNumber   = errors.New("want a whole number")
	errList     = errors.New("want a list")
)

func parseSize(s string) (Size, error) {
	s = strings.TrimSpace(s)
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if in := v >= 0 && v*u.bytes <= 1<<62; err != nil || !in { // NaN is not in
			return 0, errSize
		}
		return Size(v * u.bytes), nil
	}
	return 0, errSize
}

// leaf is one key and the place its value goes to.
type leaf struct {
	key   string
	value reflect.Value
}

// leaves lists every key of c in the order of the struct.
func leaves(c *Config) []leaf {
	return appendLeaves(nil, "", reflect.ValueOf(c).Elem())
}

func appendLeaves(to []leaf, prefix string, v reflect.Value) []leaf {
	for i := range v.NumField() {
		key := prefix + v.Type().Field(i).Tag.Get("koanf")
		if field := v.Field(i); field.Kind() == reflect.Struct {
			to = appendLeaves(to, key+".", field)
		} else {
			to = append(to, leaf{key, field})
		}
	}
	return to
}

// decode is stricter than mapstructure where a guess would be wrong: a bare
// number is no time, and a number is no text but for values YAML made one of.
func decode(k *koanf.Koanf, known []leaf) []error {
	var faults []error
	for _, l := range known {
		if !k.Exists(l.key) {
			continue
		}
		raw := k.Get(l.key)
		if err := set(l.value, raw); err != nil {
			faults = append(faults, fmt.Errorf("%s = %q: %w", l.key, fmt.Sprint(raw), err))
		}
	}
	return faults
}

func set(to reflect.Value, raw any) error {
	switch p := to.Addr().Interface().(type) {
	case *Size:
		return assign(p, raw, errSize, parseSize)
	case *Duration:
		return assign(p, raw, errDuration, parseDuration)
	case *int:
		return assign(p, raw, errNumber, strconv.Atoi)
	case *string:
		return assign(p, raw, errText, func(s string) (string, error) { return s, nil })
	case *[]string:
		return setList(p, raw)
	default:
		panic(fmt.Sprintf("BUG: no way to set a %s", to.Type()))
	}
}

// parseDuration takes 0 without a unit, since there it says nothing wrong.
func parseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(strings.TrimSpace(s))
	return Duration(d), err
}

func assign[T any](to *T, raw any, fault error, parse func(string) (T, error)) error {
	switch raw.(type) {
	case string, int, int64, uint64, float64, bool:
	default:
		return fault
	}
	v, err := parse(fmt.Sprint(raw))
	if err != nil {
		return fault
	}
	*to = v
	return nil
}

// setList takes a YAML list, or text with commas as the environment has it.
func setList(to *[]string, raw any) error {
	var list []string
	switch raw := raw.(type) {
	case string:
		for part := range strings.SplitSeq(raw, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
	case []any:
		for _, item := range raw {
			s, ok := item.(string)
			if !ok {
				return errList
			}
			list = append(list, s)
		}
	default:
		return errList
	}
	*to = list
	return nil
}

// nearest returns the known key with the smallest edit distance to key.
func nearest(key string, known []leaf) string {
	best, least := "", int(^uint(0)>>1)
	for _, l := range known {
		if d := distance(key, l.key); d < least {
			best, least = l.key, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
