//! Asking the keeper for a guest's process.

use std::os::fd::AsFd;

use keeper::client::{Created, Keeper, Parts};
use keeper::message::{CreateWasm, ExecWasm, Failure};
use sys::stdio::Stdio;
use wasm::gauge::Gauge;

use super::module::Module;
use crate::error::Error;
use crate::spec::Image;

/// What every guest is made with.
pub(super) struct Make<'a> {
    pub(super) keeper: &'a Keeper,
    pub(super) gauge: &'a Gauge,
    pub(super) stdio: &'a Stdio,
}

/// Which guest of its container it is.
pub(super) enum What {
    Init(CreateWasm),
    Added(ExecWasm),
}

impl Make<'_> {
    /// Has the process made, bringing the module's bytes only if the keeper needs them.
    pub(super) async fn with(
        &self,
        module: &Module,
        image: &dyn Image,
        what: What,
    ) -> Result<Created, Error> {
        let parts = Parts { gauge: self.gauge.as_fd(), stdio: self.stdio, module: None };
        match self.ask(&what, parts).await {
            Err(Failure::NotCompiled) => {
                let bytes = module.bytes(image).await?;
                Ok(self.ask(&what, Parts { module: Some(bytes.as_fd()), ..parts }).await?)
            }
            made => Ok(made?),
        }
    }

    async fn ask(&self, what: &What, parts: Parts<'_>) -> Result<Created, Failure> {
        match what {
            What::Init(create) => self.keeper.create_wasm(create.clone(), parts).await,
            What::Added(exec) => self.keeper.exec_wasm(exec.clone(), parts).await,
        }
    }
}
