package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nkeys"
)

// LoadKey reads a private key from path, or makes one there, readable by its owner alone, if there is none.
func LoadKey(path string) (key nkeys.KeyPair, made bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(path)
		if errors.Is(err, fs.ErrExist) { // another process was first
			return LoadKey(path)
		}
		return key, err == nil, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("read key: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, fmt.Errorf("read key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, false, fmt.Errorf("key %s can be read by others (mode %04o): run chmod 600 on it", path, info.Mode().Perm())
	}
	key, err = nkeys.FromSeed(bytes.TrimSpace(data))
	clear(data)
	if err != nil {
		return nil, false, fmt.Errorf("key %s is damaged: %w", path, err)
	}
	return key, false, nil
}

func makeKey(path string) (nkeys.KeyPair, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	seed, err := key.Seed()
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	// Written whole beside it first: a process killed here leaves no half a key, and Link never replaces one.
	f, err := os.CreateTemp(dir, ".key-")
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(seed, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", path, err)
	}
	return key, nil
}
