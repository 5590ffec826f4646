// Prints a greeting, the arguments and the environment. `hello work N` also computes for a while.
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	fmt.Println("hello from Go")
	for _, arg := range os.Args {
		fmt.Println("arg", arg)
	}
	for _, pair := range os.Environ() {
		fmt.Println("env", pair)
	}
	if len(os.Args) == 3 && os.Args[1] == "work" {
		limit, err := strconv.Atoi(os.Args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		fmt.Println("primes", primes(limit))
	}
}

// primes counts the primes below limit with a sieve.
func primes(limit int) int {
	composite := make([]bool, limit)
	count := 0
	for n := 2; n < limit; n++ {
		if composite[n] {
			continue
		}
		count++
		for multiple := n * n; multiple < limit; multiple += n {
			composite[multiple] = true
		}
	}
	return count
}
