// Package bpfd is the root of the Go module of bpfd's API. The messages and
// clients are in package bpfdv1, generated from proto/bpfd/v1 by
// `cargo xtask codegen`. The module has no address of its own yet: use it with
//
//	go mod edit -require=bpfd/proto/go@v0.0.0 -replace=bpfd/proto/go=PATH/TO/bpfd/proto/go
package bpfd
