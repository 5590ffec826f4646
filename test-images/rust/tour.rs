//! Prints a greeting, the arguments and the environment, then does what its words ask for: see README.md.

use std::error::Error;
use std::fs;

fn main() {
    println!("hello from Rust");
    for argument in std::env::args() {
        println!("arg {argument}");
    }
    for (name, value) in std::env::vars() {
        println!("env {name}={value}");
    }
    let mut words = std::env::args().skip(1);
    while let Some(verb) = words.next() {
        let subject = words.next().unwrap_or_default();
        let done = match verb.as_str() {
            "read" => read(&subject),
            "list" => list(&subject),
            "write" => fs::write(&subject, words.next().unwrap_or_default()).map_err(Box::from),
            "exit" => exit(subject.parse().unwrap_or(u8::MAX)),
            _ => Err(Box::from("no such verb")),
        };
        if let Err(error) = done {
            eprintln!("{verb} {subject}: {error}");
            exit(1);
        }
    }
}

fn read(path: &str) -> Result<(), Box<dyn Error>> {
    print!("{}", fs::read_to_string(path)?);
    Ok(())
}

fn list(path: &str) -> Result<(), Box<dyn Error>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().into_string().expect("names are UTF-8 in WASI"));
    }
    names.sort();
    names.iter().for_each(|name| println!("entry {name}"));
    Ok(())
}

#[cfg(target_env = "p1")]
fn exit(code: u8) -> ! {
    std::process::exit(code.into())
}

/// In a component `std::process::exit` knows but success and failure: every code other than 0 would become 1.
#[cfg(target_env = "p2")]
fn exit(code: u8) -> ! {
    wasip2::cli::exit::exit_with_code(code);
    unreachable!("the host ends the program")
}
