// Writes the encrypted private keys of this directory, with the library that cosign uses. It is no part of the build:
//
//	go mod init keys && go get github.com/secure-systems-lab/go-securesystemslib/encrypted@v0.11.1 && go run generate.go
package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

const (
	password = "correct horse"
	today    = "ENCRYPTED SIGSTORE PRIVATE KEY"
	older    = "ENCRYPTED COSIGN PRIVATE KEY"
)

func main() {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(err)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	check(err)
	write("p256", today, p256, p256.Public(), encrypted.Standard)
	write("p256-older", older, p256, p256.Public(), encrypted.Legacy)
	write("ed25519", today, edwards, edwards.Public(), encrypted.OWASP)
	write("p384", today, p384, p384.Public(), encrypted.Standard)
}

func write(name, block string, private, public any, strength encrypted.KDFParameterStrength) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	check(err)
	sealed, err := encrypted.EncryptWithCustomKDFParameters(der, []byte(password), strength)
	check(err)
	check(os.WriteFile(name+".key", pem.EncodeToMemory(&pem.Block{Type: block, Bytes: sealed}), 0o600))
	der, err = x509.MarshalPKIXPublicKey(public)
	check(err)
	check(os.WriteFile(name+".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
