package schema

import "time"

// Prune says which images nothing uses are removed daily.
type Prune string

const (
	PruneNothing Prune = "false"
	PruneOurs    Prune = "true" // what varan pulled or built
	PruneAll     Prune = "all"  // whoever brought it
)

// Zones looks a time zone up by its name, "" being the daemon's own; nil = there is none of that name. Go finds zones
// in files, which schema does not read.
type Zones func(name string) *time.Location

// Active reports whether t lies in the window; its end belongs to it. One that crosses midnight goes on into the next
// day, however long it is.
func (w *Window) Active(t time.Time, zones Zones) bool {
	if !w.Enabled || w.DurationMinutes <= 0 {
		return false
	}
	zone := zones(w.Timezone)
	if zone == nil {
		return false
	}
	t = t.In(zone)
	length := time.Duration(w.DurationMinutes) * time.Minute
	in := func(day time.Time) bool {
		start := time.Date(day.Year(), day.Month(), day.Day(), w.Hour, w.Minute, 0, 0, zone)
		return !t.Before(start) && !t.After(start.Add(length))
	}
	switch w.ScheduleType {
	case "OneTime":
		day, err := time.ParseInLocation(time.DateOnly, w.Date, zone)
		return err == nil && in(day)
	case "Weekly":
		want, ok := Weekday(w.DayOfWeek)
		for back := range w.DurationMinutes/(24*60) + 2 {
			day := t.AddDate(0, 0, -back)
			if ok && int(day.Weekday()) == want && in(day) {
				return true
			}
		}
		return false
	}
	for back := range w.DurationMinutes/(24*60) + 2 {
		if in(t.AddDate(0, 0, -back)) {
			return true
		}
	}
	return false
}

// Maintenance is the name of the window t lies in, "" = none.
func (c *ServerConfig) Maintenance(t time.Time, zones Zones) string {
	for i := range c.MaintenanceWindows {
		if w := &c.MaintenanceWindows[i]; w.Active(t, zones) {
			return w.Name
		}
	}
	return ""
}
