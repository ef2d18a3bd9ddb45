package schema

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// A Schedule says when a procedure runs next.
type Schedule interface {
	// Next is the first time after t, in t's location; the zero time if there is none within five years.
	Next(t time.Time) time.Time
}

// ParseSchedule reads a procedure's schedule: six cron fields beginning with seconds ("Cron"), or English
// such as "Every day at 03:00".
func ParseSchedule(format, text string) (Schedule, error) {
	if len(text) > 500 {
		return nil, errors.New("it has more than 500 characters")
	}
	if format == "Cron" {
		return parseCron(text)
	}
	specs, err := englishToCron(text)
	if err != nil {
		return nil, err
	}
	var all union
	for _, spec := range specs {
		s, err := parseCron(spec)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// A union runs whenever any of its schedules does: "at 2:30 pm and 6 pm" is no single cron line.
type union []Schedule

func (u union) Next(t time.Time) time.Time {
	var first time.Time
	for _, s := range u {
		if n := s.Next(t); !n.IsZero() && (first.IsZero() || n.Before(first)) {
			first = n
		}
	}
	return first
}

// Where both day of month and day of week are restricted, both must match; cron libraries take either.
type bothDays struct {
	cron.Schedule
	weekdays uint64
}

func (b bothDays) Next(t time.Time) time.Time {
	limit := t.AddDate(5, 0, 0)
	for {
		t = b.Schedule.Next(t)
		if t.IsZero() || t.After(limit) {
			return time.Time{}
		}
		if b.weekdays&(1<<uint(t.Weekday())) != 0 {
			return t
		}
	}
}

const starBit = 1 << 63 // as the cron library marks * and ?

func parseCron(spec string) (Schedule, error) {
	fields := strings.Fields(spec)
	switch len(fields) {
	case 6:
	case 5:
		return nil, errors.New(`it has five fields where six belong, beginning with seconds; put "0 " in front`)
	default:
		return nil, fmt.Errorf("it has %d fields where six belong: second minute hour day month weekday", len(fields))
	}
	for i, f := range fields {
		letters := "LW#"
		if i != 3 && i != 5 {
			letters = "#"
		}
		if j := strings.IndexAny(strings.ToUpper(f), letters); j >= 0 && !isNameChar(f, j) {
			return nil, fmt.Errorf("%q: L, W and # are not handled by varan", f)
		}
	}
	fields[5] = sundays(fields[5])
	s, err := cron.NewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(strings.Join(fields, " "))
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if spec, ok := s.(*cron.SpecSchedule); ok && spec.Dom&starBit == 0 && spec.Dow&starBit == 0 {
		weekdays := spec.Dow
		spec.Dow |= starBit
		return bothDays{spec, weekdays}, nil
	}
	return s, nil
}

// isNameChar tells the L of JUL and the W of WED from the letters that stand for themselves.
func isNameChar(f string, i int) bool {
	letter := func(j int) bool { return j >= 0 && j < len(f) && (f[j]|0x20 >= 'a' && f[j]|0x20 <= 'z') }
	return f[i] != '#' && (letter(i-1) || letter(i+1))
}

// sundays writes the weekday 7, also Sunday, as 0, which the cron library knows.
func sundays(field string) string {
	parts := strings.Split(field, ",")
	for i, p := range parts {
		switch {
		case p == "7":
			parts[i] = "0"
		case strings.HasSuffix(p, "-7"):
			if from := strings.TrimSuffix(p, "-7"); from == "7" {
				parts[i] = "0"
			} else {
				parts[i] = from + "-6,0"
			}
		case strings.HasPrefix(p, "7-"):
			parts[i] = "0" + p[1:]
		}
	}
	return strings.Join(parts, ",")
}

// english is what has been understood of a sentence so far.
type english struct {
	seconds, minutes, hours, days int // every so many; 0: not said
	times                         []clock
	from, to                      *clock // between
	weekdays, monthDays, months   []string
	said                          bool
}

type clock struct{ hour, minute int }

// englishToCron turns a sentence into cron lines. Words it does not know are errors, never ignored.
func englishToCron(text string) ([]string, error) {
	words := englishWords(text)
	if len(words) == 0 {
		return nil, errors.New("it is empty")
	}
	var e english
	for i := 0; i < len(words); {
		n, err := e.word(words, i)
		if err != nil {
			return nil, err
		}
		i += n
	}
	return e.cron()
}

func englishWords(text string) []string {
	text = strings.ToLower(text)
	text = strings.NewReplacer(",", " ", ";", " ", "–", "-", " - ", " to ", "a.m.", "am", "p.m.", "pm").Replace(text)
	words := strings.Fields(text)
	for i, w := range words {
		words[i] = strings.TrimSuffix(w, ".")
	}
	return words
}

// word reads what begins at words[i] and returns how many words that was.
func (e *english) word(words []string, i int) (int, error) {
	w := words[i]
	next := func(n int) string {
		if i+n < len(words) {
			return words[i+n]
		}
		return ""
	}
	switch w {
	case "every", "each", "run", "runs", "at", "on", "the", "of", "and", "only", "in", "a", "an", "once", "time", "per", "day", "days", "o'clock", "month":
		if w == "day" || w == "month" && i > 0 && (words[i-1] == "every" || words[i-1] == "each" || words[i-1] == "a" || words[i-1] == "per") {
			e.said = true
			if w == "month" && len(e.monthDays) == 0 && !slices.ContainsFunc(words[i:], isOrdinal) {
				e.monthDays = []string{"1"}
			}
		}
		return 1, nil
	case "hourly":
		e.hours = 1
		return 1, nil
	case "daily", "everyday":
		e.said = true
		return 1, nil
	case "weekly", "week", "weeks":
		e.said = true
		if !slices.ContainsFunc(words, func(w string) bool { _, ok := dayName(w); return ok }) {
			e.weekdays = append(e.weekdays, "0")
		}
		return 1, nil
	case "monthly":
		e.said = true
		e.monthDays = append(e.monthDays, "1")
		return 1, nil
	case "second":
		if next(1) == "day" || next(1) == "of" {
			e.monthDays = append(e.monthDays, "2")
			return 1, nil
		}
		e.seconds = 1
		return 1, nil
	case "minute":
		e.minutes = 1
		return 1, nil
	case "hour":
		e.hours = 1
		return 1, nil
	case "weekday", "weekdays":
		e.weekdays = append(e.weekdays, "1-5")
		return 1, nil
	case "weekend", "weekends":
		e.weekdays = append(e.weekdays, "0", "6")
		return 1, nil
	case "between", "from":
		a, n, ok := clockAt(words, i+1)
		if !ok {
			return 0, fmt.Errorf("a time of day belongs after %q", w)
		}
		sep := i + 1 + n
		if sep >= len(words) || !slices.Contains([]string{"and", "to", "until", "through", "till"}, words[sep]) {
			return 0, fmt.Errorf("two times belong after %q", w)
		}
		b, m, ok := clockAt(words, sep+1)
		if !ok {
			return 0, fmt.Errorf("two times belong after %q", w)
		}
		e.from, e.to = &a, &b
		return 2 + n + m, nil
	}
	if c, n, ok := clockAt(words, i); ok {
		e.times = append(e.times, c)
		return n, nil
	}
	if from, to, ok := dayRange(w); ok {
		e.weekdays = append(e.weekdays, from+"-"+to)
		return 1, nil
	}
	if d, ok := dayName(w); ok {
		if slices.Contains([]string{"through", "to", "thru", "until", "till"}, next(1)) {
			if to, ok := dayName(next(2)); ok {
				e.weekdays = append(e.weekdays, strconv.Itoa(d)+"-"+strconv.Itoa(to))
				return 3, nil
			}
		}
		e.weekdays = append(e.weekdays, strconv.Itoa(d))
		return 1, nil
	}
	if m, ok := monthName(w); ok {
		if slices.Contains([]string{"through", "to", "thru", "until"}, next(1)) {
			if to, ok := monthName(next(2)); ok {
				e.months = append(e.months, strconv.Itoa(m)+"-"+strconv.Itoa(to))
				return 3, nil
			}
		}
		e.months = append(e.months, strconv.Itoa(m))
		return 1, nil
	}
	if isOrdinal(w) {
		day := ordinals[w]
		if day == 0 {
			day, _ = strconv.Atoi(w[:len(w)-2])
		}
		if day < 1 || day > 31 {
			return 0, fmt.Errorf("%q is not a day of the month", w)
		}
		e.monthDays = append(e.monthDays, strconv.Itoa(day))
		return 1, nil
	}
	if n, err := strconv.Atoi(w); err == nil && n > 0 {
		unit := strings.TrimSuffix(next(1), "s")
		step, limit := map[string]*int{"second": &e.seconds, "sec": &e.seconds, "minute": &e.minutes, "min": &e.minutes,
			"hour": &e.hours, "hr": &e.hours, "day": &e.days}[unit], map[string]int{"second": 59, "sec": 59, "minute": 59, "min": 59,
			"hour": 23, "hr": 23, "day": 31}[unit]
		if step == nil {
			return 0, fmt.Errorf("after %d belongs seconds, minutes, hours or days", n)
		}
		if n > limit {
			return 0, fmt.Errorf("every %d %ss cannot be written as a schedule; at most %d", n, unit, limit)
		}
		*step = n
		return 2, nil
	}
	return 0, fmt.Errorf("the word %q is not understood", w)
}

// ordinals are those written out.
var ordinals = map[string]int{"first": 1, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "tenth": 10, "fifteenth": 15, "twentieth": 20}

func isOrdinal(w string) bool {
	if ordinals[w] != 0 {
		return true
	}
	for _, end := range []string{"st", "nd", "rd", "th"} {
		if d, ok := strings.CutSuffix(w, end); ok {
			if _, err := strconv.Atoi(d); err == nil {
				return true
			}
		}
	}
	return false
}

func dayName(w string) (int, bool) {
	if d, ok := Weekday(strings.TrimSuffix(w, "s")); ok {
		return d, true
	}
	return Weekday(w)
}

func dayRange(w string) (from, to string, ok bool) {
	a, b, ok := strings.Cut(w, "-")
	if !ok {
		return "", "", false
	}
	x, okX := dayName(a)
	y, okY := dayName(b)
	return strconv.Itoa(x), strconv.Itoa(y), okX && okY
}

func monthName(w string) (int, bool) {
	if len(w) < 3 {
		return 0, false
	}
	for m := time.January; m <= time.December; m++ {
		if strings.HasPrefix(strings.ToLower(m.String()), w) {
			return int(m), true
		}
	}
	return 0, false
}

// clockAt reads a time of day: 16:30, 4pm, 4:00 pm, noon, midnight.
func clockAt(words []string, i int) (clock, int, bool) {
	if i >= len(words) {
		return clock{}, 0, false
	}
	w, n := words[i], 1
	switch w {
	case "noon", "midday":
		return clock{12, 0}, 1, true
	case "midnight":
		return clock{0, 0}, 1, true
	}
	half := ""
	for _, h := range []string{"am", "pm"} {
		if rest, ok := strings.CutSuffix(w, h); ok && rest != "" {
			w, half = rest, h
		}
	}
	if half == "" && i+1 < len(words) && (words[i+1] == "am" || words[i+1] == "pm") {
		half, n = words[i+1], 2
	}
	hh, mm, colon := strings.Cut(w, ":")
	if !colon && half == "" {
		return clock{}, 0, false
	}
	h, err := strconv.Atoi(hh)
	if err != nil {
		return clock{}, 0, false
	}
	m := 0
	if colon {
		if m, err = strconv.Atoi(mm); err != nil || len(mm) != 2 {
			return clock{}, 0, false
		}
	}
	switch {
	case half != "" && (h < 1 || h > 12):
		return clock{}, 0, false
	case half == "am" && h == 12:
		h = 0
	case half == "pm" && h < 12:
		h += 12
	}
	if h < 0 || h > 23 || m < 0 || m > 59 {
		return clock{}, 0, false
	}
	return clock{h, m}, n, true
}

func (e *english) cron() ([]string, error) {
	list := func(xs []string) string {
		if len(xs) == 0 {
			return "*"
		}
		return strings.Join(xs, ",")
	}
	for i, w := range e.weekdays { // Friday to Monday
		if a, b, ok := strings.Cut(w, "-"); ok && a > b {
			e.weekdays[i] = a + "-6,0-" + b
		}
	}
	days := list(e.monthDays)
	if e.days > 1 && days == "*" {
		days = "*/" + strconv.Itoa(e.days)
	}
	tail := days + " " + list(e.months) + " " + list(e.weekdays)
	hours := "*"
	if e.from != nil {
		if e.from.hour > e.to.hour {
			hours = fmt.Sprintf("%d-23,0-%d", e.from.hour, e.to.hour)
		} else {
			hours = fmt.Sprintf("%d-%d", e.from.hour, e.to.hour)
		}
	}
	every := func(n int) string {
		if n == 1 {
			return "*"
		}
		return "*/" + strconv.Itoa(n)
	}
	switch {
	case len(e.times) > 0 && e.seconds+e.minutes == 0:
		var specs []string
		for _, c := range e.times {
			specs = append(specs, fmt.Sprintf("0 %d %d %s", c.minute, c.hour, tail))
		}
		return specs, nil
	case e.seconds > 0:
		return []string{every(e.seconds) + " * " + hours + " " + tail}, nil
	case e.minutes > 0:
		return []string{"0 " + every(e.minutes) + " " + hours + " " + tail}, nil
	case e.hours > 0:
		if hours != "*" && e.hours > 1 {
			hours = fmt.Sprintf("%d-%d/%d", e.from.hour, e.to.hour, e.hours)
		} else if hours == "*" {
			hours = every(e.hours)
		}
		return []string{"0 0 " + hours + " " + tail}, nil
	case e.from != nil:
		return nil, errors.New("how often is not said")
	case e.said || e.days > 0 || len(e.monthDays)+len(e.weekdays)+len(e.months) > 0:
		return []string{"0 0 0 " + tail}, nil
	}
	return nil, errors.New(`when is not said; write "Every day at 03:00" or "every 15 minutes"`)
}
