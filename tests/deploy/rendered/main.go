// Renders a Helm chart as Helm does, by Go's own template engine and the functions of Helm that our chart calls: for
// tests on machines without helm. Reads {"templates", "files", "chart", "cases": [{"values", "release"}]} as JSON and
// answers with a list: {"rendered": {file: text}} or {"error": text} for each case.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"path"
	"sort"
	"strconv"
	"strings"
	"text/template"
)

type files map[string]string

// Get is the text of a file of the chart, empty where there is none.
func (f files) Get(name string) string { return f[name] }

type asked struct {
	Templates map[string]string `json:"templates"`
	Files     files             `json:"files"`
	Chart     map[string]any    `json:"chart"`
	Cases     []struct {
		Values  map[string]any `json:"values"`
		Release map[string]any `json:"release"`
	} `json:"cases"`
}

type answer struct {
	Rendered map[string]string `json:"rendered,omitempty"`
	Error    string            `json:"error,omitempty"`
}

func main() {
	var ask asked
	if err := json.NewDecoder(os.Stdin).Decode(&ask); err != nil { // numbers become float64, as Helm's do
		log.Fatal(err)
	}
	chart, err := parsed(ask.Templates)
	if err != nil {
		log.Fatal(err)
	}
	answers := []answer{}
	for _, one := range ask.Cases {
		given := map[string]any{"Values": one.Values, "Release": one.Release, "Chart": ask.Chart, "Files": ask.Files}
		rendered, err := render(chart, ask.Templates, given)
		if err != nil {
			answers = append(answers, answer{Error: err.Error()})
			continue
		}
		answers = append(answers, answer{Rendered: rendered})
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		log.Fatal(err)
	}
}

func parsed(texts map[string]string) (*template.Template, error) {
	chart := template.New("chart").Option("missingkey=zero")
	chart.Funcs(functions(chart))
	for name, text := range texts {
		if _, err := chart.New(name).Parse(text); err != nil {
			return nil, err
		}
	}
	return chart, nil
}

func render(chart *template.Template, texts map[string]string, given map[string]any) (map[string]string, error) {
	rendered := map[string]string{}
	for name := range texts {
		if strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		var out bytes.Buffer
		if err := chart.ExecuteTemplate(&out, name, given); err != nil {
			return nil, err
		}
		rendered[name] = strings.ReplaceAll(out.String(), "<no value>", "")
	}
	return rendered, nil
}

func functions(chart *template.Template) template.FuncMap {
	return template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var out bytes.Buffer
			err := chart.ExecuteTemplate(&out, name, data)
			return strings.ReplaceAll(out.String(), "<no value>", ""), err
		},
		"required": func(why string, value any) (any, error) {
			if value == nil || value == "" {
				return nil, errors.New(why)
			}
			return value, nil
		},
		"fail": func(why string) (string, error) { return "", errors.New(why) },
		"default": func(fallback, value any) any {
			if truth, _ := template.IsTrue(value); truth {
				return value
			}
			return fallback
		},
		"ternary": func(yes, no any, which bool) any {
			if which {
				return yes
			}
			return no
		},
		"dict": func(pairs ...any) map[string]any {
			made := map[string]any{}
			for i := 0; i+1 < len(pairs); i += 2 {
				made[pairs[i].(string)] = pairs[i+1]
			}
			return made
		},
		"list": func(values ...any) []any { return values },
		"get":  func(of map[string]any, key string) any { return of[key] },
		"merge": func(into, from map[string]any) map[string]any {
			for key, value := range from {
				if _, there := into[key]; !there {
					into[key] = value
				}
			}
			return into
		},
		"int":        whole,
		"add":        func(a, b any) int { return whole(a) + whole(b) },
		"mul":        func(a, b any) int { return whole(a) * whole(b) },
		"quote":      func(value any) string { return strconv.Quote(fmt.Sprint(value)) },
		"trim":       strings.TrimSpace,
		"trimSuffix": func(suffix, text string) string { return strings.TrimSuffix(text, suffix) },
		"trunc": func(most int, text string) string {
			if len(text) > most {
				return text[:most]
			}
			return text
		},
		"contains": func(part, text string) bool { return strings.Contains(text, part) },
		"nindent":  func(by int, text string) string { return "\n" + indented(by, text) },
		"indent":   indented,
		"toYaml":   func(value any) string { return strings.TrimSuffix(yaml(value, 0), "\n") },
	}
}

func whole(value any) int {
	switch given := value.(type) {
	case float64:
		return int(given)
	case int:
		return given
	case string:
		number, _ := strconv.Atoi(given)
		return number
	}
	return 0
}

func indented(by int, text string) string {
	pad := strings.Repeat(" ", by)
	return pad + strings.ReplaceAll(text, "\n", "\n"+pad)
}

// yaml is a value in block style with sorted keys, as Helm writes it; strings are quoted, which means the same.
func yaml(value any, depth int) string {
	pad := strings.Repeat("  ", depth)
	switch given := value.(type) {
	case map[string]any:
		if len(given) == 0 {
			return pad + "{}\n"
		}
		keys := make([]string, 0, len(given))
		for key := range given {
			keys = append(keys, key)
		}
		sort.Strings(keys)
		var out strings.Builder
		for _, key := range keys {
			out.WriteString(pad + strconv.Quote(key) + ":" + below(given[key], depth))
		}
		return out.String()
	case []any:
		if len(given) == 0 {
			return pad + "[]\n"
		}
		var out strings.Builder
		for _, one := range given {
			out.WriteString(pad + "-" + below(one, depth))
		}
		return out.String()
	}
	plain, _ := json.Marshal(value)
	return pad + string(plain) + "\n"
}

func below(value any, depth int) string {
	switch given := value.(type) {
	case map[string]any:
		if len(given) > 0 {
			return "\n" + yaml(given, depth+1)
		}
	case []any:
		if len(given) > 0 {
			return "\n" + yaml(given, depth+1)
		}
	}
	return " " + strings.TrimLeft(yaml(value, 0), " ")
}
