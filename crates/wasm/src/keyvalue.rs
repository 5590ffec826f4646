//! `wasi:keyvalue` (0.2.0-draft), in memory: one store for each process of a container, under the
//! empty identifier, which all instances of its guest share and which ends with it.

use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

mod store;

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit/keyvalue.wit",
        world: "wasi:keyvalue/imports",
        imports: { default: trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
        trappable_error_type: { "wasi:keyvalue/store.error" => super::Failure },
    });
}

use bindings::wasi::keyvalue::{atomics, batch, store as interface};
use store::StoreError;

pub(crate) use store::Store;

/// An open bucket. There is but one.
#[expect(unreachable_pub, reason = "the generated interface re-exports it")]
pub struct Bucket;

/// Why a call has no result.
#[expect(unreachable_pub, reason = "the generated interface names it in public signatures")]
pub enum Failure {
    /// The guest is told.
    Told(interface::Error),
    /// The guest used a handle that it does not have.
    Handle(ResourceTableError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Told(interface::Error::Other(error.to_string()))
    }
}

impl From<ResourceTableError> for Failure {
    fn from(error: ResourceTableError) -> Self {
        Self::Handle(error)
    }
}

/// The store, and the guest's handles on it.
pub(crate) struct View<'a> {
    pub(crate) store: &'a Store,
    pub(crate) table: &'a mut ResourceTable,
}

impl View<'_> {
    /// The store behind a handle.
    fn of(&self, bucket: &Resource<Bucket>) -> Result<&Store, Failure> {
        let Bucket = self.table.get(bucket)?;
        Ok(self.store)
    }
}

/// Provides the interfaces of `wasi:keyvalue/imports`.
pub(crate) fn add_to_linker<T: 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> View<'_>,
) -> wasmtime::Result<()> {
    struct Views;
    impl HasData for Views {
        type Data<'a> = View<'a>;
    }
    interface::add_to_linker::<T, Views>(linker, view)?;
    atomics::add_to_linker::<T, Views>(linker, view)?;
    batch::add_to_linker::<T, Views>(linker, view)
}

impl interface::Host for View<'_> {
    fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Failure> {
        match identifier.as_str() {
            "" => Ok(self.table.push(Bucket)?),
            _ => Err(Failure::Told(interface::Error::NoSuchStore)),
        }
    }

    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<interface::Error> {
        match failure {
            Failure::Told(error) => Ok(error),
            Failure::Handle(error) => Err(error.into()),
        }
    }
}

impl interface::HostBucket for View<'_> {
    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.of(&bucket)?.get(&key))
    }

    fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> Result<(), Failure> {
        Ok(self.of(&bucket)?.set(vec![(key, value)])?)
    }

    fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Failure> {
        self.of(&bucket)?.delete(&[key]);
        Ok(())
    }

    fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Failure> {
        Ok(self.of(&bucket)?.has(&key))
    }

    fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Result<interface::KeyResponse, Failure> {
        let (keys, cursor) = self.of(&bucket)?.keys(cursor.unwrap_or(0));
        Ok(interface::KeyResponse { keys, cursor })
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        let Bucket = self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for View<'_> {
    fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Result<u64, Failure> {
        Ok(self.of(&bucket)?.increment(key, delta)?)
    }
}

impl batch::Host for View<'_> {
    fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Failure> {
        let values = self.of(&bucket)?.get_all(&keys)?;
        Ok(keys
            .into_iter()
            .zip(values)
            .map(|(key, value)| value.map(|value| (key, value)))
            .collect())
    }

    fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Failure> {
        Ok(self.of(&bucket)?.set(pairs)?)
    }

    fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<(), Failure> {
        self.of(&bucket)?.delete(&keys);
        Ok(())
    }
}
