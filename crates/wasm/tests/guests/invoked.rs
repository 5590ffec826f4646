//! Functions called by name, as `wasmtime run --invoke` does it, and programs that cannot be run as
//! asked: each refused by its types, before there is a process.

use super::*;

impl Lab {
    fn invoking(mut self, function: &str, arguments: &[&str]) -> Self {
        self.job.guest.entry = Entry::Invoke { function: function.to_owned() };
        let words = ["/app.wasm"].iter().chain(arguments);
        self.job.guest.args = words.map(|&word| word.to_owned()).collect();
        self
    }

    fn check(&self) -> Result<(), EntryError> {
        self.load().expect("loads").check(&self.job.guest)
    }

    /// Checks that the guest is refused before it runs, and would be inside as well.
    #[track_caller]
    fn refused(&self, says: &[&str]) {
        let refused = self.check().expect_err("must be refused").to_string();
        for words in says {
            assert!(refused.contains(words), "{words} in {refused}");
        }
        let ended = self.run();
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains(&refused), "{refused} in {}", ended.stderr);
    }

    #[track_caller]
    fn prints(&self, expected: &str) {
        assert_eq!(self.check(), Ok(()));
        let ended = self.run();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, expected), "{}", ended.stderr);
    }
}

const NUMBERS: &str = r#"(module
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "long") (param i64) (result i64) (local.get 0))
  (func (export "half") (param f32) (result f32) (f32.mul (local.get 0) (f32.const 0.5)))
  (func (export "third") (param f64) (result f64) (f64.div (local.get 0) (f64.const 3)))
  (func (export "swap") (param i32 f64) (result f64 i32) (local.get 1) (local.get 0))
  (func (export "lanes") (result v128) (v128.const i64x2 7 0))
  (func (export "of lanes") (param v128))
  (func (export "none") (result externref) (ref.null extern))
  (func (export "nothing"))
  (func (export "broken") unreachable)
  (memory (export "memory") 1))"#;

#[test]
fn a_function_gets_its_arguments_and_its_results_are_printed() {
    let table: [(&str, &[&str], &str); 11] = [
        ("add", &["2", "-3"], "-1\n"),
        ("add", &["2147483647", "1"], "-2147483648\n"),
        ("long", &["-9223372036854775808"], "-9223372036854775808\n"),
        ("half", &["3"], "1.5\n"),
        ("third", &["1"], "0.3333333333333333\n"),
        ("third", &["-inf"], "-inf\n"),
        ("half", &["nan"], "NaN\n"),
        ("swap", &["1", "2.5"], "2.5\n1\n"),
        ("lanes", &[], "7\n"),
        ("none", &[], "<null externref>\n"),
        ("nothing", &[], ""),
    ];
    let mut lab = Lab::with(NUMBERS);
    for (function, arguments, expected) in table {
        lab = lab.invoking(function, arguments);
        lab.prints(expected);
    }
    let ended = lab.invoking("broken", &[]).run();
    assert_eq!(ended.code, 134, "{}", ended.stderr);
}

#[test]
fn a_librarys_arguments_name_the_function() {
    let with = |wat: &str, words: &[&str]| {
        let mut lab = Lab::with(wat);
        lab.job.guest.args = words.iter().map(|&word| word.to_owned()).collect();
        lab
    };
    with(NUMBERS, &["/lib.wasm", "--invoke", "add", "2", "3"]).prints("5\n");
    with(NUMBERS, &["/lib.wasm", "--invoke", "nothing"]).prints("");
    with(COMPONENT, &["/lib.wasm", "--invoke", "plus", "2", "3"]).prints("5\n");
    for library in [NUMBERS, COMPONENT] {
        with(library, &["/lib.wasm", "--invoke"])
            .refused(&["not followed by", "the functions are"]);
        with(library, &["/lib.wasm", "--invoke", "sub"]).refused(&["no function `sub`"]);
        with(library, &["/lib.wasm", "add", "2"])
            .refused(&["give the arguments `--invoke FUNCTION"]);
    }
    // A command's arguments are its own.
    let command = with(&list("args"), &["/app.wasm", "--invoke", "add"]);
    command.prints("/app.wasm\0--invoke\0add\0");
}

#[test]
fn a_call_that_does_not_fit_is_refused_before_it_runs() {
    let table: [(&str, &[&str], &[&str]); 8] = [
        ("sub", &["1"], &["no function `sub`", "`add(i32, i32) -> i32`", "and 2 more"]),
        ("memory", &[], &["no function `memory`"]),
        ("add", &["1"], &["add(i32, i32) -> i32 takes 2 arguments, and 1 were given"]),
        ("nothing", &["1"], &["nothing() takes 0 arguments"]),
        ("add", &["1", "two"], &["argument 2 of add", "`two`", "not a value of type i32"]),
        ("add", &["2147483648", "1"], &["argument 1 of add", "not a value of type i32"]),
        ("half", &[""], &["``, is not a value of type f32"]),
        ("of lanes", &["0"], &["of lanes(v128)", "type v128"]),
    ];
    let mut lab = Lab::with(NUMBERS);
    for (function, arguments, says) in table {
        lab = lab.invoking(function, arguments);
        lab.refused(says);
    }
}

#[test]
fn a_reactor_is_initialised_before_its_function_is_called() {
    let reactor = r#"(module
      (global $ready (mut i32) (i32.const 0))
      (func (export "_initialize")
        (global.set $ready (i32.add (global.get $ready) (i32.const 1))))
      (func (export "ready") (result i32) (global.get $ready)))"#;
    Lab::with(reactor).invoking("ready", &[]).prints("1\n");
    Lab::with(reactor).invoking("_initialize", &[]).prints("");
    Lab::with(reactor).refused(&["no `_start`", "`_initialize()`, `ready() -> i32`"]);
}

#[test]
fn an_invoked_function_has_wasi_and_the_containers_arguments() {
    let body = "(func (export \"greet\") (param i32) (result i32)
                  (call $print (i32.const 1024) (i32.const 3)) (local.get 0))
                (func (export \"leave\") (call $exit (i32.const 9)))";
    let lab = Lab::with(&program("hi ", body)).invoking("greet", &["4"]);
    lab.prints("hi 4\n");
    assert_eq!(lab.invoking("leave", &[]).run().code, 9);
    Lab::with(&list("args").replace("_start", "list"))
        .invoking("list", &["1"])
        .refused(&["list() takes 0 arguments"]);
}

const COMPONENT: &str = r#"(component
  (core module $m
    (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
    (func (export "not") (param i32) (result i32) (i32.eqz (local.get 0)))
    (func (export "nothing")))
  (core instance $i (instantiate $m))
  (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
  (func $not (param "what" bool) (result bool) (canon lift (core func $i "not")))
  (func $nothing (canon lift (core func $i "nothing")))
  (export "plus" (func $add))
  (export "nothing" (func $nothing))
  (instance (export "acme:sums/signed@1.0.0") (export "add" (func $add)))
  (instance (export "acme:sums/other") (export "add" (func $add)) (export "not" (func $not))))"#;

#[test]
fn a_components_function_speaks_wave() {
    let table: [(&str, &[&str], &str); 5] = [
        ("plus", &["2", "3"], "5\n"),
        ("acme:sums/signed@1.0.0#add", &["4294967295", "1"], "0\n"),
        ("not", &["true"], "false\n"),
        ("acme:sums/other#add", &["1", "1"], "2\n"),
        ("nothing", &[], "()\n"),
    ];
    let mut lab = Lab::with(COMPONENT);
    for (function, arguments, expected) in table {
        lab = lab.invoking(function, arguments);
        lab.prints(expected);
    }
}

#[test]
fn a_call_that_does_not_fit_a_component_is_refused_before_it_runs() {
    let deep = "[".repeat(100_000);
    let table: [(&str, &[&str], &[&str]); 6] = [
        ("minus", &[], &["no function `minus`", "`plus: func(u32, u32) -> u32`"]),
        ("add", &["1", "1"], &["several", "`acme:sums/signed@1.0.0#add`, `acme:sums/other#add`"]),
        ("plus", &["1"], &["takes 2 arguments, and 1 were given"]),
        ("plus", &["1", "-1"], &["argument 2 of plus", "`-1`", "type u32"]),
        ("not", &["maybe"], &["argument 1 of acme:sums/other#not", "type bool"]),
        ("not", &[&deep], &["type bool"]),
    ];
    let mut lab = Lab::with(COMPONENT);
    for (function, arguments, says) in table {
        lab = lab.invoking(function, arguments);
        lab.refused(says);
    }
}

#[test]
fn a_function_of_resources_is_refused() {
    let wat = r#"(component
      (type $door (resource (rep i32)))
      (core func $new (canon resource.new $door))
      (core module $m (import "" "new" (func $new (param i32) (result i32)))
        (func (export "open") (result i32) (call $new (i32.const 1))))
      (core instance $i (instantiate $m (with "" (instance (export "new" (func $new))))))
      (export $shown "door" (type $door))
      (func $bare (result (own $shown)) (canon lift (core func $i "open")))
      (export "bare" (func $bare)))"#;
    Lab::with(wat).invoking("bare", &[]).refused(&["bare: func()", "has no text"]);
}

#[test]
fn what_is_no_command_is_refused_with_its_exports() {
    for library in [
        "(module (func (export \"add_two\")))",
        "(module (func (export \"_start\") (param i32)) (func (export \"add_two\")))",
    ] {
        Lab::with(library).refused(&["no `_start`", "`add_two()`"]);
        Lab::with(library).invoking("add_two", &[]).prints("");
    }
    let library = component(0, "", "acme:door/knock");
    Lab::with(&library).refused(&["not a command", "`acme:door/knock`"]);
    Lab::with(&library).invoking("acme:door/knock#run", &[]).prints("ok\n");
}
