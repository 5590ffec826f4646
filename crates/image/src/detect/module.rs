//! Which module a wasm container runs, and whether the bytes agree.

use crate::annotations::{COMPONENT_MODEL, Declared};
use crate::binary::Binary;
use crate::entrypoint::basename;
use crate::quoted;

use super::strategy::effective;
use super::{
    Facts, FileFacts, ImageFacts, LayerFacts, MAX_MODULE, Observation, Refusal, Route, Source,
    Strategy, saw,
};

/// Returns the module of a container that `decider` says is wasm.
pub(super) fn wasm_route(
    facts: &Facts,
    image: Option<&ImageFacts>,
    looked_at: &[Observation],
    decider: Strategy,
) -> Result<Route, Refusal> {
    if let Some(file) = &facts.entrypoint
        && matches!(file.binary, Binary::Elf | Binary::Script)
    {
        return Err(Refusal::BytesSayLinux {
            because: saw(looked_at, decider),
            path: file.path.clone(),
            binary: file.binary,
        });
    }
    let layers = image.map_or(&[][..], |image| &image.wasm_layers);
    let layer = pick_layer(facts, layers)?;
    check_declared(facts, image, layer)?;
    match (layer, &facts.entrypoint) {
        (Some(layer), _) => {
            check_size(layer)?;
            Ok(Route::Wasm(Source::Layer { digest: layer.digest, size: layer.size }))
        }
        (None, Some(file)) if file.binary.is_runnable_wasm() => {
            check_component_model(facts, image, file)?;
            Ok(Route::Wasm(Source::File { path: file.path.clone() }))
        }
        (None, Some(file)) => {
            Err(Refusal::NotWasm { path: file.path.clone(), binary: file.binary })
        }
        (None, None) => Err(Refusal::NoModule {
            because: saw(looked_at, decider),
            argv0: facts.argv0.clone(),
            image: image.map(|image| image.name.clone()),
        }),
    }
}

/// Returns the layer that argv[0] means; none if it means a file.
fn pick_layer<'a>(
    facts: &Facts,
    layers: &'a [LayerFacts],
) -> Result<Option<&'a LayerFacts>, Refusal> {
    let name = basename(facts.argv0.as_deref().unwrap_or_default());
    let named = layers.iter().find(|layer| layer.title.as_deref() == Some(name));
    let names_a_module =
        facts.entrypoint.as_ref().is_some_and(|file| file.binary.is_runnable_wasm());
    match (named, layers) {
        (Some(layer), _) => Ok(Some(layer)),
        (None, []) => Ok(None),
        (None, layers) if names_a_module && layers.iter().all(|layer| layer.title.is_some()) => {
            Ok(None)
        }
        (None, [layer]) => Ok(Some(layer)),
        (None, layers) => Err(Refusal::ManyLayers {
            name: name.to_owned(),
            titles: quoted::list(layers.iter().filter_map(|layer| layer.title.as_deref())),
            count: layers.len(),
        }),
    }
}

fn check_size(layer: &LayerFacts) -> Result<(), Refusal> {
    match layer.size {
        0 => Err(Refusal::EmptyLayer { digest: layer.digest }),
        1..=MAX_MODULE => Ok(()),
        size => Err(Refusal::LargeLayer { digest: layer.digest, size }),
    }
}

/// Checks the engine that image, pod and layer ask for.
fn check_declared(
    facts: &Facts,
    image: Option<&ImageFacts>,
    layer: Option<&LayerFacts>,
) -> Result<(), Refusal> {
    let of_layer = layer.map(|layer| layer.annotations.replaced_by(&facts.pod));
    for annotations in [Some(effective(facts, image)), of_layer].into_iter().flatten() {
        for (key, requirement) in Declared::read(&annotations)?.required {
            requirement.check().map_err(|source| Refusal::Unmet { key, source })?;
        }
    }
    Ok(())
}

fn check_component_model(
    facts: &Facts,
    image: Option<&ImageFacts>,
    file: &FileFacts,
) -> Result<(), Refusal> {
    let declared = Declared::read(&effective(facts, image))?.component_model;
    let is_component = file.binary == Binary::Component;
    match declared {
        Some(declared) if declared != is_component => Err(Refusal::ComponentModel {
            key: COMPONENT_MODEL,
            declared,
            path: file.path.clone(),
            binary: file.binary,
        }),
        Some(_) | None => Ok(()),
    }
}

/// Refuses a hint for Linux where there is nothing Linux could run.
pub(super) fn check_linux_hint(
    facts: &Facts,
    image: Option<&ImageFacts>,
    looked_at: &[Observation],
) -> Result<(), Refusal> {
    let refusal = |found: String| {
        Err(Refusal::HintedLinux { hint: saw(looked_at, Strategy::RuntimeHint), found })
    };
    match &facts.entrypoint {
        Some(file) if file.binary.is_runnable_wasm() => {
            refusal(saw(looked_at, Strategy::FileExtension))
        }
        Some(file) if file.binary == Binary::Precompiled => {
            Err(Refusal::Precompiled { path: file.path.clone() })
        }
        Some(_) => Ok(()),
        None if image.is_some_and(ImageFacts::is_wasm) => {
            refusal(saw(looked_at, Strategy::ImageMediaType))
        }
        None => Ok(()),
    }
}
