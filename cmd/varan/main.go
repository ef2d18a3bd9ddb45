// Command varan makes a fleet of Docker hosts match a Git repository.
package main

func main() {}
