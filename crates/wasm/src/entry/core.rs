//! Core modules: `_start`, or any exported function of numbers.

use wasmtime::{ExternType, FuncType, InstancePre, Module, Store, Val, ValType};

use super::{Entry, EntryError, Invoked, Nameless, invoked, invoked_by_arguments, listed, shown};
use crate::command::{Guest, Host};
use crate::stdio::Output;

const START: &str = "_start";
const INITIALIZE: &str = "_initialize";

/// What fits the module's types.
pub(crate) enum Call {
    Start,
    Function(Function),
}

/// A call of an exported function.
pub(crate) struct Function {
    name: String,
    arguments: Vec<Val>,
    results: usize,
    before: Before,
}

/// What is called before.
#[derive(PartialEq)]
enum Before {
    Nothing,
    /// The module is a library that sets itself up: a reactor.
    Initialize,
}

/// Decides what to call.
pub(crate) fn plan(module: &Module, guest: &Guest) -> Result<Call, EntryError> {
    match &guest.entry {
        Entry::Invoke { function } => function_of(module, invoked(function, guest)),
        Entry::Command if has_procedure(module, START) => Ok(Call::Start),
        Entry::Command => match invoked_by_arguments(guest) {
            Some(Ok(invoked)) => function_of(module, invoked),
            Some(Err(Nameless)) => {
                Err(EntryError::NoFunctionNamed { functions: listed(functions(module)) })
            }
            None => Err(EntryError::MissingStart { exports: exports(module) }),
        },
    }
}

fn function_of(
    module: &Module,
    Invoked { function, arguments }: Invoked<'_>,
) -> Result<Call, EntryError> {
    let Some(ExternType::Func(kind)) = module.get_export(function) else {
        return Err(EntryError::NoSuchFunction {
            function: shown(function),
            functions: listed(functions(module)),
        });
    };
    let reactor = function != INITIALIZE && has_procedure(module, INITIALIZE);
    Ok(Call::Function(Function {
        arguments: values(&signature(function, &kind), &kind, arguments)?,
        name: function.to_owned(),
        results: kind.results().len(),
        before: if reactor { Before::Initialize } else { Before::Nothing },
    }))
}

/// Lists what the module exports.
pub(crate) fn exports(module: &Module) -> String {
    listed(module.exports().map(|export| match export.ty() {
        ExternType::Func(kind) => signature(export.name(), &kind),
        _ => shown(export.name()),
    }))
}

/// Says whether the module exports a function of this name without parameters and results.
fn has_procedure(module: &Module, name: &str) -> bool {
    matches!(module.get_export(name), Some(ExternType::Func(kind))
        if kind.params().len() == 0 && kind.results().len() == 0)
}

fn functions(module: &Module) -> impl Iterator<Item = String> {
    module.exports().filter_map(|export| match export.ty() {
        ExternType::Func(kind) => Some(signature(export.name(), &kind)),
        _ => None,
    })
}

/// As in `add(i32, i32) -> i32`.
fn signature(name: &str, kind: &FuncType) -> String {
    let join = |types: Vec<String>| types.join(", ");
    let parameters = join(kind.params().map(|each| each.to_string()).collect());
    let results: Vec<String> = kind.results().map(|each| each.to_string()).collect();
    shown(match results.len() {
        0 => format!("{name}({parameters})"),
        1 => format!("{name}({parameters}) -> {}", join(results)),
        _ => format!("{name}({parameters}) -> ({})", join(results)),
    })
}

fn values(signature: &str, kind: &FuncType, given: &[String]) -> Result<Vec<Val>, EntryError> {
    if kind.params().len() != given.len() {
        return Err(EntryError::ArgumentCount {
            function: signature.to_owned(),
            expected: kind.params().len(),
            given: given.len(),
        });
    }
    let each = kind.params().zip(given).enumerate();
    each.map(|(index, (wanted, text))| {
        if matches!(wanted, ValType::V128 | ValType::Ref(_)) {
            let (function, kind) = (signature.to_owned(), shown(&wanted));
            return Err(EntryError::Unspeakable { function, kind });
        }
        number(&wanted, text).ok_or_else(|| EntryError::Argument {
            position: index + 1,
            function: signature.to_owned(),
            text: shown(text),
            wanted: wanted.to_string(),
            why: String::new(),
        })
    })
    .collect()
}

/// Reads a number as Rust and `wasmtime run` do: decimal, with a sign, `inf` and `nan`.
fn number(wanted: &ValType, text: &str) -> Option<Val> {
    match wanted {
        ValType::I32 => text.parse().ok().map(Val::I32),
        ValType::I64 => text.parse().ok().map(Val::I64),
        ValType::F32 => text.parse().ok().map(|value: f32| Val::F32(value.to_bits())),
        ValType::F64 => text.parse().ok().map(|value: f64| Val::F64(value.to_bits())),
        ValType::V128 | ValType::Ref(_) => None,
    }
}

/// Instantiates the module and makes the call.
pub(crate) async fn run(
    linked: &InstancePre<Host>,
    store: &mut Store<Host>,
    guest: &Guest,
) -> wasmtime::Result<()> {
    let call = plan(linked.module(), guest)?;
    let instance = linked.instantiate_async(&mut *store).await?;
    store.data_mut().meter.instantiated();
    let Function { name, arguments, results, before } = match call {
        Call::Function(function) => function,
        Call::Start => {
            let start = instance.get_typed_func::<(), ()>(&mut *store, START)?;
            return start.call_async(&mut *store, ()).await;
        }
    };
    if before == Before::Initialize {
        let initialize = instance.get_typed_func::<(), ()>(&mut *store, INITIALIZE)?;
        initialize.call_async(&mut *store, ()).await?;
    }
    let called = instance
        .get_func(&mut *store, &name)
        .ok_or_else(|| wasmtime::format_err!("`{name}` is gone"))?;
    let mut values = vec![Val::I32(0); results];
    called.call_async(&mut *store, &arguments, &mut values).await?;
    for value in &values {
        Output::standard().say(&format!("{}\n", text_of(value)));
    }
    Ok(())
}

/// Writes a result as `wasmtime run --invoke` prints it.
fn text_of(value: &Val) -> String {
    let reference = |name: &str, is_null: bool| {
        if is_null { format!("<null {name}>") } else { format!("<{name}>") }
    };
    match value {
        Val::I32(number) => number.to_string(),
        Val::I64(number) => number.to_string(),
        Val::F32(bits) => f32::from_bits(*bits).to_string(),
        Val::F64(bits) => f64::from_bits(*bits).to_string(),
        Val::V128(bits) => bits.as_u128().to_string(),
        Val::FuncRef(found) => reference("funcref", found.is_none()),
        Val::ExternRef(found) => reference("externref", found.is_none()),
        Val::AnyRef(found) => reference("anyref", found.is_none()),
        Val::ExnRef(found) => reference("exnref", found.is_none()),
        Val::ContRef(found) => reference("contref", found.is_none()),
    }
}
