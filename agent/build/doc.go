// Package build builds images with the BuildKit inside a Docker engine.
//
// In: a [Job], that is a folder with the build's context, a Dockerfile and its arguments. Out: an image of that
// name in the engine, and progress. There is no builder to set up and no plugin: the engine's own API carries
// BuildKit's. It imports Docker's and BuildKit's clients and nothing of ours. Start at [Image].
package build
