package dashboard

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// perPage is how many rows a page of a list has.
const perPage = 50

// query is what a list is asked for: the words searched for, filters, the order and the page.
type query struct {
	path   string
	values url.Values
}

func queryOf(r *http.Request) query { return query{r.URL.Path, r.URL.Query()} }

// Get returns a parameter without the spaces around it.
func (q query) Get(key string) string { return strings.TrimSpace(q.values.Get(key)) }

// Filtered reports whether anything is searched for.
func (q query) Filtered() bool {
	for key := range q.values {
		if key != "sort" && key != "page" && q.Get(key) != "" {
			return true
		}
	}
	return false
}

// with returns the path of the same list with other parameters, given as pairs of key and value; empty ones are left out.
func (q query) with(pairs ...string) string {
	v := url.Values{}
	for key := range q.values {
		if q.Get(key) != "" {
			v.Set(key, q.Get(key))
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
		if pairs[i+1] == "" {
			v.Del(pairs[i])
		}
	}
	if len(v) == 0 {
		return q.path
	}
	return q.path + "?" + v.Encode()
}

// words are those searched for, in lower case. All of them must be found.
func (q query) words() []string { return strings.Fields(strings.ToLower(q.Get("q"))) }

// matches reports whether all words occur in the texts.
func matches(words []string, texts ...string) bool {
	if len(words) == 0 {
		return true
	}
	all := strings.ToLower(strings.Join(texts, "\x00"))
	return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(all, w) })
}

// pager says which part of a list a page shows.
type pager struct {
	Page, Pages int
	// First and Last are the numbers of the rows shown, counted from 1; Total is how many there are.
	First, Last, Total int
	Prev, Next         string
}

// pageOf returns the rows of the page that is asked for, or of the last one if there are fewer.
func pageOf[T any](q query, rows []T) ([]T, pager) {
	p := pager{Total: len(rows), Pages: max(1, (len(rows)+perPage-1)/perPage)}
	n, err := strconv.Atoi(q.Get("page"))
	if err != nil {
		n = 1
	}
	p.Page = min(max(n, 1), p.Pages)
	from := (p.Page - 1) * perPage
	to := min(from+perPage, len(rows))
	p.First, p.Last = min(from+1, to), to
	if p.Page > 1 {
		p.Prev = q.with("page", pageNumber(p.Page-1))
	}
	if p.Page < p.Pages {
		p.Next = q.with("page", strconv.Itoa(p.Page+1))
	}
	return rows[from:to], p
}

// pageNumber is how a page is named in a path: the first one is not.
func pageNumber(n int) string {
	if n == 1 {
		return ""
	}
	return strconv.Itoa(n)
}

// column is a column that a list may be sorted by.
type column struct {
	Label string
	// Href sorts by it, the other way round if it is sorted by it already. Empty for one that cannot be sorted by.
	Href string
	// Sort is the value of aria-sort: ascending, descending or empty.
	Sort string
}

// order is a way to sort rows of a list.
type order[T any] struct {
	key, label string
	compare    func(a, b T) int
}

// sorted sorts rows as a query asks, by the first order unless it names another, and returns the columns. The sort is
// stable, and what compares equal keeps the order it had.
func sorted[T any](q query, rows []T, orders []order[T]) []column {
	key, desc := strings.CutPrefix(q.Get("sort"), "-")
	at := max(0, slices.IndexFunc(orders, func(o order[T]) bool { return o.key == key && o.compare != nil }))
	out := make([]column, len(orders))
	for i, o := range orders {
		out[i].Label = o.label
		if o.compare == nil {
			continue
		}
		next := o.key
		if i == at {
			out[i].Sort = "ascending"
			if desc {
				out[i].Sort = "descending"
			} else {
				next = "-" + o.key
			}
		}
		out[i].Href = q.with("sort", next, "page", "")
	}
	slices.SortStableFunc(rows, func(a, b T) int {
		if desc {
			return orders[at].compare(b, a)
		}
		return orders[at].compare(a, b)
	})
	return out
}

// option is one of a select.
type option struct {
	Value, Label string
	Selected     bool
}

// optionsOf are the options of a select with one that means all before them.
func optionsOf(all, selected string, values []string) []option {
	out := []option{{Label: all, Selected: selected == ""}}
	for _, v := range values {
		out = append(out, option{v, v, v == selected})
	}
	return out
}

// by compares by what f finds.
func by[T any, K cmp.Ordered](f func(T) K) func(a, b T) int {
	return func(a, b T) int { return cmp.Compare(f(a), f(b)) }
}
