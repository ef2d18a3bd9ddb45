package settings

import "reflect"

// same compares two Settings, values of secrets included.
func same(a, b *Settings) bool { return reflect.DeepEqual(a, b) }
