package agent

import (
	"strings"
	"testing"
)

func TestSelf(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, c := range []struct{ name, data, want string }{
		{"cgroup v1", "5:devices:/docker/" + id + "\n", id},
		{"cgroup of systemd", "0::/system.slice/docker-" + id + ".scope\n", id},
		{"private cgroup namespace", "0::/\n", ""},
		{"files below /etc", "712 690 8:1 /var/lib/docker/containers/" + id + "/resolv.conf /etc/resolv.conf rw,relatime - ext4 /dev/sda1 rw\n", id},
		{"a container's shared memory, on the host", "51 46 0:45 / /var/lib/docker/containers/" + id + "/mounts/shm rw,nosuid shared:3 - tmpfs shm rw\n", ""},
		{"a container's files, looked at from the host's", "51 46 8:1 /var/lib/docker/containers/" + id + "/hosts /mnt/hosts rw - ext4 /dev/sda1 rw\n", ""},
	} {
		if got := idIn([]byte(c.data)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
