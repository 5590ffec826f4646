// Prints "waiting", then waits for an hour: a program as large as any of Go, which takes no processor time.
package main

import (
	"fmt"
	"time"
)

func main() {
	fmt.Println("waiting")
	time.Sleep(time.Hour)
}
