// Package httpd is the daemon's surface: health, metrics and the JSON API, over HTTP and a unix socket.
//
// In: requests, with a Bearer token over HTTP, without one over the socket, which only its owner can open. Out:
// calls of a Daemon, and its answers as JSON, or as one JSON value a line where an answer grows. Over HTTP nothing
// is read or done before the token is known to be good, but for webhooks, whose receiver checks signatures; nothing reads the machine's own folders. Client is the
// other side of the same API. It imports sync and the data types of apply and plan. Start at Server.
package httpd
