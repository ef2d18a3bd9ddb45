package schema

import (
	"testing"
	"time"
)

func TestWindowActive(t *testing.T) {
	zones := func(name string) *time.Location {
		zone, err := time.LoadLocation(name)
		if err != nil {
			return nil
		}
		return zone
	}
	daily := Window{Name: "d", ScheduleType: "Daily", Hour: 23, Minute: 30, DurationMinutes: 60, Enabled: true, Timezone: "UTC"}
	weekly := Window{Name: "w", ScheduleType: "Weekly", DayOfWeek: "sun", Hour: 23, DurationMinutes: 120, Enabled: true, Timezone: "UTC"}
	days := Window{Name: "l", ScheduleType: "Daily", Hour: 3, DurationMinutes: 1440, Enabled: true, Timezone: "UTC"}
	once := Window{Name: "o", ScheduleType: "OneTime", Date: "2026-03-01", Hour: 1, DurationMinutes: 2880, Enabled: true, Timezone: "Europe/Vienna"}
	off := daily
	off.Enabled = false
	nowhere := daily
	nowhere.Timezone = "Nowhere/Here"
	for _, c := range []struct {
		name string
		w    Window
		at   string
		want bool
	}{
		{"start", daily, "2026-01-05T23:30:00Z", true},
		{"before", daily, "2026-01-05T23:29:59Z", false},
		{"end", daily, "2026-01-06T00:30:00Z", true},
		{"after", daily, "2026-01-06T00:30:01Z", false},
		{"over midnight into the next day", weekly, "2026-01-05T00:30:00Z", true}, // a Monday
		{"not in the early morning of its own day", weekly, "2026-01-04T00:30:00Z", false},
		{"on its day", weekly, "2026-01-04T23:30:00Z", true},
		{"a whole day is not one instant", days, "2026-01-05T20:00:00Z", true},
		{"once", once, "2026-03-01T00:30:00Z", true},
		{"once, the day after", once, "2026-03-02T12:00:00Z", true},
		{"once, over", once, "2026-03-04T00:30:00Z", false},
		{"off", off, "2026-01-05T23:45:00Z", false},
		{"no such timezone", nowhere, "2026-01-05T23:45:00Z", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339, c.at)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.w.Active(at, zones); got != c.want {
				t.Errorf("Active(%s) = %v", c.at, got)
			}
			cfg := &ServerConfig{MaintenanceWindows: []Window{c.w}}
			if got := cfg.Maintenance(at, zones); (got == c.w.Name) != c.want {
				t.Errorf("Maintenance = %q", got)
			}
		})
	}
}

func TestAutoPrune(t *testing.T) {
	for _, c := range []struct {
		text string
		want Prune
		ok   bool
	}{{"", PruneOurs, true}, {"auto_prune = true", PruneOurs, true}, {"auto_prune = false", PruneNothing, true}, {`auto_prune = "all"`, PruneAll, true}, {`auto_prune = "some"`, "", false}} {
		cfg, diags := Parse([]File{{Path: "s.toml", Data: []byte("[[server]]\nname = \"a\"\n[server.config]\n" + c.text)}}, Options{})
		if diags.HasErrors() == c.ok {
			t.Errorf("%s: %v", c.text, diags)
			continue
		}
		if got := cfg.Resources[0].Config.(*ServerConfig).AutoPrune; c.ok && got != c.want {
			t.Errorf("%s: %q", c.text, got)
		}
	}
}
