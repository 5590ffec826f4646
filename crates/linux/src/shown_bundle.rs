//! The bundle that libcontainer and the hooks of a create are shown.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Hooks;

use crate::home::{CONFIG, Home};
use crate::plan::{CreateRequest, Plan};

/// The folder that libcontainer reads the planned spec from and tells hooks of.
///
/// It is the state folder, unless a hook runs during the create: hooks must be
/// told the container's own bundle, so the plan stands in for its config.json until
/// this is dropped.
#[derive(Debug)]
pub(crate) struct ShownBundle<'a> {
    folder: &'a Path,
    original: Option<PathBuf>,
}

impl<'a> ShownBundle<'a> {
    pub(crate) fn of(request: &'a CreateRequest, home: &'a Home, plan: &Plan) -> io::Result<Self> {
        let runs_now = |hooks: &Hooks| {
            let lists = [hooks.prestart(), hooks.create_runtime(), hooks.create_container()];
            lists.into_iter().flatten().any(|list| !list.is_empty())
        };
        if !plan.spec.hooks().as_ref().is_some_and(runs_now) {
            return Ok(Self { folder: home.folder(), original: None });
        }
        let config = request.bundle.join(CONFIG);
        let kept = home.folder().join("config.original.json");
        fs::copy(&config, &kept)?;
        let shown = Self { folder: &request.bundle, original: Some(kept) };
        fs::copy(home.folder().join(CONFIG), &config)?;
        Ok(shown)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder
    }
}

impl Drop for ShownBundle<'_> {
    fn drop(&mut self) {
        if let Some(original) = &self.original
            && let Err(error) = fs::copy(original, self.folder.join(CONFIG))
        {
            log::warn!("put back config.json of bundle {}: {error}", self.folder.display());
        }
    }
}
