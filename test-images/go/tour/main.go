// Prints a greeting, the arguments and the environment, then does what its words ask for: see README.md.
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	fmt.Println("hello from Go")
	for _, argument := range os.Args {
		fmt.Println("arg", argument)
	}
	for _, pair := range os.Environ() {
		fmt.Println("env", pair)
	}
	words := os.Args[1:]
	next := func() string {
		if len(words) == 0 {
			return ""
		}
		word := words[0]
		words = words[1:]
		return word
	}
	for len(words) > 0 {
		verb, subject := next(), next()
		var err error
		switch verb {
		case "read":
			err = read(subject)
		case "list":
			err = list(subject)
		case "write":
			err = os.WriteFile(subject, []byte(next()), 0o644)
		case "exit":
			err = exit(subject)
		default:
			err = fmt.Errorf("no such verb")
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s %s: %v\n", verb, subject, err)
			os.Exit(1)
		}
	}
}

func read(path string) error {
	content, err := os.ReadFile(path)
	fmt.Print(string(content))
	return err
}

func list(path string) error {
	// Sorted by name.
	entries, err := os.ReadDir(path)
	for _, entry := range entries {
		fmt.Println("entry", entry.Name())
	}
	return err
}

func exit(code string) error {
	number, err := strconv.Atoi(code)
	if err == nil {
		os.Exit(number)
	}
	return err
}
