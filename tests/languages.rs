//! A program says and does the same in every language it is written in, from a wasm layer and from a file.
//!
//! On real containerd daemons; needs root, and the network once, to fetch them and the languages' compilers.

use std::time::Duration;

use anyhow::Result;
use end_to_end::lab::{LAYERED, Lab, must, on_each};
use testkit::command::Output;
use testkit::image::Archive;
use testkit::language::Language;

/// A component with a whole language in it takes seconds to compile, once; longer while other tests run.
const PATIENCE: Duration = Duration::from_secs(240);

/// The forms that the image of a program can have.
const FORMS: [fn(Language) -> Result<Archive>; 2] = [Language::layer_image, Language::file_image];

/// One program in one image on one daemon.
struct Tour<'lab> {
    lab: &'lab Lab,
    language: Language,
    image: Archive,
}

fn in_every_language(check: impl Fn(&Tour<'_>)) {
    on_each(&LAYERED, |lab| {
        for language in Language::ALL {
            for form in FORMS {
                check(&Tour { lab, language, image: lab.image(form(language)) });
            }
        }
    });
}

impl Tour<'_> {
    /// Runs the program with these words behind its name.
    fn told(&self, words: &[&str]) -> Output {
        let args = ["/app.wasm"].iter().chain(words).copied();
        let run = self.lab.start(&self.image, "tour").args(args).env("GREETING", "hé llo=1");
        must(run.timeout(PATIENCE).output())
    }

    /// Checks the exit code, the greeting with all that the program was given, and what follows it.
    #[track_caller]
    fn assert_said(&self, output: &Output, words: &[&str], code: i32, rest: &[&str]) {
        let context = format!("{:?} {}\n{}", self.language, self.image.name, output.report());
        assert_eq!(output.status, Some(code), "{context}");
        let lines = output.lines();
        let (environment, others): (Vec<&str>, Vec<&str>) =
            lines.into_iter().partition(|line| line.starts_with("env "));
        let greeting = format!("hello from {}", self.language.name());
        let arguments = ["/app.wasm"].iter().chain(words).map(|word| format!("arg {word}"));
        let mut expected: Vec<String> = vec![greeting];
        expected.extend(arguments);
        expected.extend(rest.iter().map(|line| (*line).to_owned()));
        assert_eq!(others, expected, "{context}");
        assert!(environment.contains(&"env GREETING=hé llo=1"), "{context}");
        // PATH is containerd's own default; nothing of the machine that built the program comes along.
        let known = ["env GREETING=", "env PATH=", "env HOSTNAME="];
        let foreign = |line: &&&str| !known.iter().any(|start| line.starts_with(start));
        assert_eq!(environment.iter().find(foreign), None, "{context}");
    }
}

#[test]
fn a_program_greets_with_its_arguments_and_environment() {
    in_every_language(|tour| {
        tour.assert_said(&tour.told(&[]), &[], 0, &[]);
        let words = ["exit", "0", "not said: ", "a b"];
        tour.assert_said(&tour.told(&words), &words, 0, &[]);
    });
}

#[test]
fn a_program_reads_files_lists_folders_and_writes_to_its_own_tmp() {
    in_every_language(|tour| {
        let words = ["read", "/data/note.txt", "list", "/data", "list", "/tmp"];
        let rest = ["a note from the image", "entry note.txt"];
        tour.assert_said(&tour.told(&words), &words, 0, &rest);
        let words = ["write", "/tmp/new", "kept\n", "list", "/tmp", "read", "/tmp/new"];
        // The written word ends with a line of its own, which its argument shows as well.
        let output = tour.told(&words);
        assert_eq!(output.status, Some(0), "{}", output.report());
        assert!(output.stdout.ends_with("\nentry new\nkept\n"), "{}", output.report());
    });
}

#[test]
fn the_exit_code_of_a_program_is_the_containers() {
    in_every_language(|tour| {
        for code in [7, 255] {
            let words = ["exit", &code.to_string()];
            tour.assert_said(&tour.told(&words), &words, code, &[]);
        }
    });
}

#[test]
fn a_program_is_told_what_it_may_not_do() {
    in_every_language(|tour| {
        for words in [
            &["read", "/data/missing"][..],
            &["read", "/etc/passwd"],
            &["list", "/proc"],
            // The image's own files are read-only.
            &["write", "/data/new", "text"],
            &["sing", ""],
        ] {
            let output = tour.told(words);
            tour.assert_said(&output, words, 1, &[]);
            let complaint = format!("{} {}: ", words[0], words[1]);
            assert!(output.stderr.starts_with(&complaint), "{}", output.report());
        }
    });
}

/// Core modules and components differ in the four bytes behind the magic number.
#[test]
fn half_of_the_languages_are_run_as_modules_and_half_as_components() {
    if !testkit::ready() {
        return;
    }
    for language in Language::ALL {
        let program = must(language.tour());
        let kind: &[u8] = match language {
            Language::C | Language::Go | Language::RustModule => &[1, 0, 0, 0],
            Language::RustComponent | Language::JavaScript | Language::Python => &[0x0d, 0, 1, 0],
        };
        assert_eq!(&program[4..8], kind, "{language:?}");
    }
}
