//! Components: `wasi:cli/run`, or any exported function whose values have a text in WAVE.

use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::wasm_wave::wasm::{DisplayFunc, DisplayType};
use wasmtime::component::{Accessor, InstancePre, Type, Val};
use wasmtime::{Store, format_err};

use super::{Entry, EntryError, Invoked, Nameless, invoked, invoked_by_arguments, listed, shown};
use crate::command::{Guest, Host};
use crate::engine::Engine;
use crate::module::Command;
use crate::stdio::Output;

/// Parts the name of an interface from that of its function.
const PART: char = '#';

/// What fits the component's types.
pub(crate) enum Call<'a> {
    Command(&'a Command),
    Function(Function, Vec<Val>),
}

/// An exported function.
pub(crate) struct Function {
    interface: Option<String>,
    name: String,
    kind: ComponentFunc,
}

/// Decides what to call.
pub(crate) fn plan<'a>(
    library: &InstancePre<Host>,
    command: Option<&'a Command>,
    engine: &Engine,
    guest: &Guest,
) -> Result<Call<'a>, EntryError> {
    let function_of = |invoked: Invoked<'_>| {
        let function = find(functions(library, engine), invoked.function)?;
        let arguments = values(&function, invoked.arguments)?;
        Ok(Call::Function(function, arguments))
    };
    match (&guest.entry, command) {
        (Entry::Invoke { function }, _) => function_of(invoked(function, guest)),
        (Entry::Command, Some(command)) => Ok(Call::Command(command)),
        (Entry::Command, None) => match invoked_by_arguments(guest) {
            Some(Ok(invoked)) => function_of(invoked),
            Some(Err(Nameless)) => Err(EntryError::NoFunctionNamed {
                functions: listed(functions(library, engine).iter().map(Function::signature)),
            }),
            None => Err(EntryError::NotACommand { exports: exports(library, engine) }),
        },
    }
}

/// Lists what the component exports.
pub(crate) fn exports(library: &InstancePre<Host>, engine: &Engine) -> String {
    let exports = library.component().component_type();
    listed(exports.exports(engine.wasmtime()).map(|(name, _)| shown(name)))
}

fn functions(library: &InstancePre<Host>, engine: &Engine) -> Vec<Function> {
    let engine = engine.wasmtime();
    let mut found = Vec::new();
    for (name, export) in library.component().component_type().exports(engine) {
        match export.ty {
            ComponentItem::ComponentFunc(kind) => {
                found.push(Function { interface: None, name: name.to_owned(), kind });
            }
            ComponentItem::ComponentInstance(instance) => {
                for (function, export) in instance.exports(engine) {
                    if let ComponentItem::ComponentFunc(kind) = export.ty {
                        let (interface, name) = (Some(name.to_owned()), function.to_owned());
                        found.push(Function { interface, name, kind });
                    }
                }
            }
            _ => {}
        }
    }
    found
}

fn find(mut functions: Vec<Function>, wanted: &str) -> Result<Function, EntryError> {
    let matching = |function: &Function| function.name == wanted || function.path() == wanted;
    let named: Vec<usize> = (0..functions.len()).filter(|&at| matching(&functions[at])).collect();
    match *named.as_slice() {
        [only] => Ok(functions.swap_remove(only)),
        [] => Err(EntryError::NoSuchFunction {
            function: shown(wanted),
            functions: listed(functions.iter().map(Function::signature)),
        }),
        ref several => Err(EntryError::Ambiguous {
            function: shown(wanted),
            functions: listed(several.iter().map(|&at| shown(functions[at].path()))),
        }),
    }
}

impl Function {
    fn path(&self) -> String {
        match &self.interface {
            Some(interface) => format!("{interface}{PART}{}", self.name),
            None => self.name.clone(),
        }
    }

    /// As in `add: func(a: u32, b: u32) -> u32`.
    fn signature(&self) -> String {
        shown(format_args!("{}: {}", self.path(), DisplayFunc(self.kind.clone())))
    }
}

fn values(function: &Function, given: &[String]) -> Result<Vec<Val>, EntryError> {
    let wanted: Vec<Type> = function.kind.params().map(|(_, kind)| kind).collect();
    if let Some(kind) = wanted.iter().cloned().chain(function.kind.results()).find(is_unspeakable) {
        let kind = shown(DisplayType(&kind));
        return Err(EntryError::Unspeakable { function: function.signature(), kind });
    }
    if wanted.len() != given.len() {
        return Err(EntryError::ArgumentCount {
            function: function.signature(),
            expected: wanted.len(),
            given: given.len(),
        });
    }
    let each = wanted.iter().zip(given).enumerate();
    each.map(|(index, (kind, text))| {
        Val::from_wave(kind, text).map_err(|error| EntryError::Argument {
            position: index + 1,
            function: function.signature(),
            text: shown(text),
            wanted: shown(DisplayType(kind)),
            why: format!(": {}", shown(error)),
        })
    })
    .collect()
}

/// Says whether values of this type have no text: a resource, a stream, or what holds one.
fn is_unspeakable(kind: &Type) -> bool {
    let any =
        |mut kinds: Box<dyn Iterator<Item = Type> + '_>| kinds.any(|each| is_unspeakable(&each));
    match kind {
        Type::Bool
        | Type::S8
        | Type::U8
        | Type::S16
        | Type::U16
        | Type::S32
        | Type::U32
        | Type::S64
        | Type::U64
        | Type::Float32
        | Type::Float64
        | Type::Char
        | Type::String
        | Type::Enum(_)
        | Type::Flags(_) => false,
        Type::List(list) => is_unspeakable(&list.ty()),
        Type::Record(record) => any(Box::new(record.fields().map(|field| field.ty))),
        Type::Tuple(tuple) => any(Box::new(tuple.types())),
        Type::Variant(variant) => any(Box::new(variant.cases().filter_map(|case| case.ty))),
        Type::Option(option) => is_unspeakable(&option.ty()),
        Type::Result(result) => any(Box::new(result.ok().into_iter().chain(result.err()))),
        Type::Map(_)
        | Type::FixedLengthList(_)
        | Type::Own(_)
        | Type::Borrow(_)
        | Type::Future(_)
        | Type::Stream(_)
        | Type::ErrorContext => true,
    }
}

/// Instantiates the component and makes the call. The inner result is the command's own word.
pub(crate) async fn run(
    library: &InstancePre<Host>,
    command: Option<&Command>,
    engine: &Engine,
    store: &mut Store<Host>,
    guest: &Guest,
) -> wasmtime::Result<Result<(), ()>> {
    let (function, arguments) = match plan(library, command, engine, guest)? {
        Call::Function(function, arguments) => (function, arguments),
        Call::Command(Command::P2(command)) => {
            let command = command.instantiate_async(&mut *store).await?;
            store.data_mut().meter.instantiated();
            return command.wasi_cli_run().call_run(&mut *store).await;
        }
        Call::Command(Command::P3(command)) => {
            let command = command.instantiate_async(&mut *store).await?;
            store.data_mut().meter.instantiated();
            let run =
                async move |store: &Accessor<Host>| command.wasi_cli_run().call_run(store).await;
            return store.run_concurrent(run).await?;
        }
    };
    let instance = library.instantiate_async(&mut *store).await?;
    store.data_mut().meter.instantiated();
    let mut at = None;
    for name in function.interface.iter().chain([&function.name]) {
        let found = instance.get_export_index(&mut *store, at.as_ref(), name);
        at = Some(found.ok_or_else(|| format_err!("`{}` is gone", function.path()))?);
    }
    let called = at.and_then(|at| instance.get_func(&mut *store, at));
    let called = called.ok_or_else(|| format_err!("`{}` is gone", function.path()))?;
    let mut results = vec![Val::Bool(false); function.kind.results().len()];
    called.call_async(&mut *store, &arguments, &mut results).await?;
    let text = match results.as_slice() {
        [] => "()".to_owned(),
        [first, ..] => first.to_wave()?,
    };
    Output::standard().say(&format!("{text}\n"));
    Ok(Ok(()))
}
