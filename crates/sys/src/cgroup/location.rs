//! Reading `linux.cgroupsPath` of a runtime spec.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Who owns the cgroup tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// Nobody: folders are made directly.
    Cgroupfs,
    /// systemd: it makes a scope and must be asked for it.
    Systemd,
}

/// Where in the hierarchies a container's cgroup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// Below each hierarchy's mount, without a leading slash.
    relative: PathBuf,
    driver: Driver,
}

/// A `cgroupsPath` that names no place for a cgroup.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cgroups path {path:?} is refused: {reason}")]
pub struct InvalidLocation {
    path: String,
    reason: &'static str,
}

impl Location {
    /// Reads a `cgroupsPath`. Two colons make it a systemd one,
    /// `slice:prefix:name`; any other is a path from the hierarchy's mount; none
    /// is `/ID`.
    ///
    /// # Errors
    /// [`InvalidLocation`] for `..`, for the root itself and for what is no
    /// slice.
    pub fn parse(cgroups_path: Option<&str>, id: &str) -> Result<Self, InvalidLocation> {
        let text = cgroups_path.filter(|text| !text.is_empty()).unwrap_or(id);
        let refuse = |reason| InvalidLocation { path: text.to_owned(), reason };
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            [slice, prefix, name] => Self::in_slice(slice, prefix, name).map_err(refuse),
            _ => Ok(Self {
                relative: plain(Path::new(text)).map_err(refuse)?,
                driver: Driver::Cgroupfs,
            }),
        }
    }

    fn in_slice(slice: &str, prefix: &str, name: &str) -> Result<Self, &'static str> {
        let slice = if slice.is_empty() { "system.slice" } else { slice };
        let name = match (prefix, name) {
            (_, "") => return Err("the unit has no name"),
            (_, unit) if unit.ends_with(".slice") => return Err("the unit is a slice"),
            ("", unit) => format!("{unit}.scope"),
            (prefix, unit) => format!("{prefix}-{unit}.scope"),
        };
        let relative = plain(&expand_slice(slice)?.join(&name))?;
        if relative.components().next_back() != Some(Component::Normal(name.as_ref())) {
            return Err("the unit's name is not a name");
        }
        Ok(Self { relative, driver: Driver::Systemd })
    }

    /// Says who has to be asked for the cgroup.
    #[must_use]
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// The path below a hierarchy's mount, without a leading slash.
    #[must_use]
    pub fn relative(&self) -> &Path {
        &self.relative
    }
}

/// Drops the leading slash; refuses what could lead elsewhere.
fn plain(path: &Path) -> Result<PathBuf, &'static str> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => return Err("it has .. in it"),
            Component::Prefix(_) => return Err("it has a prefix"),
        }
    }
    if relative.as_os_str().is_empty() {
        return Err("it is the root of the hierarchy");
    }
    Ok(relative)
}

/// A slice is named after its place: `a-b.slice` is `a.slice/a-b.slice`.
fn expand_slice(slice: &str) -> Result<PathBuf, &'static str> {
    let stem = slice.strip_suffix(".slice").ok_or("the slice does not end in .slice")?;
    if stem == "-" {
        return Ok(PathBuf::new());
    }
    if stem.contains('/') || stem.split('-').any(str::is_empty) {
        return Err("the slice has a slash, an empty part or no name");
    }
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Ok(ends.map(|end| format!("{}.slice", &stem[..end])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_cgroups_path_has_its_place() {
        let table = [
            (None, "web", Driver::Cgroupfs),
            (Some(""), "web", Driver::Cgroupfs),
            (Some("/default/web"), "default/web", Driver::Cgroupfs),
            (Some("pods//a/./b"), "pods/a/b", Driver::Cgroupfs),
            (Some("system.slice:docker:1"), "system.slice/docker-1.scope", Driver::Systemd),
            (Some(":docker:1"), "system.slice/docker-1.scope", Driver::Systemd),
            (Some("-.slice:x:1"), "x-1.scope", Driver::Systemd),
            (Some("a.slice::1"), "a.slice/1.scope", Driver::Systemd),
            (
                Some("kubepods-besteffort-pod1.slice:cri-containerd:9f"),
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-9f.scope",
                Driver::Systemd,
            ),
        ];
        for (given, relative, driver) in table {
            let location = Location::parse(given, "web").unwrap();
            assert_eq!(location.relative(), Path::new(relative), "{given:?}");
            assert_eq!(location.driver(), driver, "{given:?}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for given in [
            "/",
            ".",
            "/a/../b",
            "..",
            "a.scope:b:c",
            "a--b.slice:p:1",
            "-a.slice:p:1",
            ".slice:p:1",
            "a/b.slice:p:1",
            "a.slice:p:",
            "a.slice:p:x/../..",
            "a.slice:p:x/y",
            "a.slice:p:b.slice",
        ] {
            assert!(Location::parse(Some(given), "web").is_err(), "{given}");
        }
    }
}
