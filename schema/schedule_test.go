package schema

import (
	"strings"
	"testing"
	"time"
)

func TestEnglishSchedules(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"every 15 minutes", "0 */15 * * * *"},
		{"every 3 hours", "0 0 */3 * * *"},
		{"every day at 4:00 pm", "0 0 16 * * *"},
		{"at midnight on the 1st and 15th of the month", "0 0 0 1,15 * *"},
		{"Run at 6:00 pm every Monday through Friday", "0 0 18 * * 1-5"},
		{"2pm and 6pm", "0 0 14 * * *; 0 0 18 * * *"},
		{"every 2 minutes on Thursday", "0 */2 * * * 4"},
		{"every hour only on weekends", "0 0 * * * 0,6"},
		{"Run every 2nd day of the month", "0 0 0 2 * *"},
		{"Every day at 03:00", "0 0 3 * * *"},
		{"Every 5 minutes", "0 */5 * * * *"},
		{"every weekday at 9am", "0 0 9 * * 1-5"},
		{"every sunday at 12:30 am", "0 30 0 * * 0"},
		{"Fri to Mon at noon", "0 0 12 * * 5-6,0-1"},
		{"every 10 minutes between 9am and 5pm", "0 */10 9-17 * * *"},
		{"every month", "0 0 0 1 * *"},
		{"daily", "0 0 0 * * *"},
	} {
		specs, err := englishToCron(tt.text)
		if got := strings.Join(specs, "; "); err != nil || got != tt.want {
			t.Errorf("%q = %q, %v; want %q", tt.text, got, err, tt.want)
			continue
		}
		if _, err := ParseSchedule("English", tt.text); err != nil {
			t.Errorf("%q: %v", tt.text, err)
		}
	}
	for _, text := range []string{"", "never", "every", "every 90 minutes", "at 25:00", "every blue moon", "every 3 fortnights"} {
		if s, err := ParseSchedule("English", text); err == nil {
			t.Errorf("%q is accepted: %v", text, s)
		}
	}
}

func TestCronSchedules(t *testing.T) {
	start := time.Date(2026, 3, 1, 0, 0, 30, 0, time.UTC) // a Sunday
	for _, tt := range []struct{ spec, want string }{
		{"0 */15 * * * ?", "2026-03-01 00:15:00"},
		{"0 0 4 * * 7", "2026-03-01 04:00:00"},
		{"0 0 4 * * MON-FRI", "2026-03-02 04:00:00"},
		{"0 0 0 13 * 5", "2026-03-13 00:00:00"}, // Friday the 13th: both must match
		{"0 0 0 14 * FRI", "2026-08-14 00:00:00"},
		{"0 0 0 ? * 5-7", "2026-03-06 00:00:00"},
	} {
		s, err := ParseSchedule("Cron", tt.spec)
		if err != nil {
			t.Errorf("%q: %v", tt.spec, err)
			continue
		}
		if got := s.Next(start).Format(time.DateTime); got != tt.want {
			t.Errorf("%q: next is %s, want %s", tt.spec, got, tt.want)
		}
	}
	for _, spec := range []string{"", "* * * * *", "61 * * * * *", "0 0 0 L * ?", "0 0 0 ? * 5#2", "0 0 0 1W * ?", "a b c d e f"} {
		if _, err := ParseSchedule("Cron", spec); err == nil {
			t.Errorf("%q is accepted", spec)
		}
	}
}
