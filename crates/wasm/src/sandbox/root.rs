//! The sandbox's files: an empty, read-only root in which every granted
//! directory is attached flat, as `/g/0`, `/g/1` and so on. The number is the
//! grant's place in the plan: whoever joins the sandbox later knows by the plan
//! and the folders which grant is where.
//!
//! Trees are opened while the host's files are in reach and attached once they
//! are not. A granted single file (the `/etc/hosts` of a pod) is attached over
//! the file of that name inside the directory it lands in; where the
//! container's root has no such file, the root becomes a read-only overlay with
//! an empty one, and nothing is written into the image.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};
use sys::mount::{MountFlags, Tree, filesystem_of, pivot_into_fd};
use sys::namespace::NEW_ROOT;
use sys::path::{open_directory, open_in_root, open_reference, path_of};

use crate::command::{Access, Preopen};
use crate::grants::{Grant, Memory, Source};

/// Where empty files for an overlay lie, in the new root.
const STUBS: &str = "s";

/// Opened grants, attached nowhere yet.
pub(super) struct Trees {
    directories: Vec<Directory>,
    files: Vec<File>,
    /// Places in the container's root for files that it does not have.
    stubs: Vec<PathBuf>,
}

struct Directory {
    /// Which grant it is.
    place: usize,
    guest: String,
    access: Access,
    tree: Tree,
}

struct File {
    guest: String,
    tree: Tree,
    /// Which directory it lands in, and where in it.
    inside: usize,
    path: PathBuf,
}

impl Trees {
    /// Opens every grant on the host.
    ///
    /// # Errors
    /// A source that is missing, that is neither directory nor file, or that
    /// lies on an interface of the kernel.
    pub(super) fn open(grants: &[Grant]) -> Result<Self> {
        let mut trees = Self { directories: Vec::new(), files: Vec::new(), stubs: Vec::new() };
        let mut files = Vec::new();
        for (place, grant) in grants.iter().enumerate() {
            let opened = match &grant.source {
                Source::Memory(memory) => in_memory(memory).map(|tree| (tree, SFlag::S_IFDIR)),
                Source::Host(from) => on_host(from),
            };
            let (tree, kind) = opened.with_context(|| format!("cannot grant {}", grant.guest))?;
            restrict(&tree, grant.access)?;
            if kind == SFlag::S_IFDIR {
                let (guest, access) = (grant.guest.clone(), grant.access);
                trees.directories.push(Directory { place, guest, access, tree });
            } else {
                files.push((grant.guest.clone(), tree));
            }
        }
        for (guest, tree) in files {
            trees.place(guest, tree)?;
        }
        Ok(trees)
    }

    /// Finds the directory a file lands in and, where the root lacks it, plans
    /// an empty one.
    fn place(&mut self, guest: String, tree: Tree) -> Result<()> {
        let (inside, path) = self.covering(&guest)?;
        let directory = self.directories[inside].tree.as_fd();
        match open_in_root(directory, &path, OFlag::O_PATH) {
            Ok(found) => ensure!(
                kind_of(found.as_fd())? == SFlag::S_IFREG,
                "cannot grant {guest}: a file cannot be mounted over what is not a file"
            ),
            Err(_) if inside == 0 => self.stubs.push(real_place(directory, &path)?),
            Err(error) => {
                let parent = &self.directories[inside].guest;
                return Err(error).with_context(|| {
                    format!("cannot grant {guest}: there is no such file in the mount {parent}")
                });
            }
        }
        // Through a directory that is read-only a file is not written either.
        restrict(&tree, self.directories[inside].access)?;
        self.files.push(File { guest, tree, inside, path });
        Ok(())
    }

    /// The granted directory with the longest path above `guest`.
    fn covering(&self, guest: &str) -> Result<(usize, PathBuf)> {
        let inside = |directory: &Directory| {
            let path = Path::new(guest).strip_prefix(&directory.guest).ok()?;
            Some((path.to_owned(), directory.guest.len()))
        };
        let found = self
            .directories
            .iter()
            .enumerate()
            .filter_map(|(index, directory)| Some((index, inside(directory)?)))
            .max_by_key(|(_, (_, length))| *length);
        let (index, (path, _)) = found.context("a sandbox without a root")?;
        Ok((index, path))
    }

    /// Builds the new root in the empty namespace this process is in, and
    /// makes it the only thing there.
    ///
    /// # Errors
    /// Those of mounting.
    pub(super) fn attach(self) -> Result<Vec<Preopen>> {
        let base = Tree::tmpfs(Some(1 << 20), 0o755, Some(4096)).context("cannot make the root")?;
        let root = base.as_fd().try_clone_to_owned()?;
        let here = open_directory(Path::new("/"))?;
        base.attach(here.as_fd(), Path::new(NEW_ROOT)).context("cannot attach the root")?;
        make_folder(root.as_fd(), "g")?;
        let mut preopens = Vec::new();
        let places: Vec<usize> = self.directories.iter().map(|each| each.place).collect();
        for Directory { place, guest, access, tree } in self.directories {
            make_folder(root.as_fd(), grant_folder(place).as_str())?;
            tree.attach(root.as_fd(), Path::new(&grant_folder(place)))
                .with_context(|| format!("cannot attach the grant of {guest}"))?;
            preopens.push(preopen(place, guest, access));
        }
        if !self.stubs.is_empty() {
            cover_with_stubs(root.as_fd(), &self.stubs)
                .context("cannot make room for mounted files in the container's root")?;
        }
        for file in self.files {
            let directory = open_beneath(root.as_fd(), &grant_folder(places[file.inside]))?;
            open_in_root(directory.as_fd(), &file.path, OFlag::O_PATH)
                .and_then(|target| file.tree.attach_on(target.as_fd()))
                .with_context(|| format!("cannot attach the grant of {}", file.guest))?;
        }
        seal(root)?;
        Ok(preopens)
    }
}

/// Lists what is attached in the root that this process has joined. A grant
/// without a folder of its own is a file inside another.
pub(super) fn attached(grants: &[Grant]) -> Vec<Preopen> {
    let is_there = |place: &usize| grant_path(*place).is_dir();
    let places = (0..grants.len()).filter(is_there);
    places.map(|at| preopen(at, grants[at].guest.clone(), grants[at].access)).collect()
}

fn seal(root: OwnedFd) -> Result<()> {
    pivot_into_fd(root.as_fd()).context("cannot change the root")?;
    let read_only = MountFlags::GUEST.with(MountFlags::RDONLY);
    sys::mount::restrict_mount(root.as_fd(), read_only).context("cannot make the root read-only")
}

fn restrict(tree: &Tree, access: Access) -> Result<()> {
    let flags = match access {
        Access::ReadOnly => MountFlags::GUEST.with(MountFlags::RDONLY),
        Access::ReadWrite => MountFlags::GUEST,
    };
    tree.restrict(flags).context("cannot restrict a mount")
}

fn in_memory(memory: &Memory) -> Result<Tree> {
    let tree = Tree::tmpfs(memory.size, memory.mode.unwrap_or(0o755), memory.inodes)?;
    if (memory.uid, memory.gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(memory.uid), Gid::from_raw(memory.gid));
        let itself = nix::fcntl::AtFlags::AT_EMPTY_PATH;
        fchownat(tree.as_fd(), "", Some(uid), Some(gid), itself)?;
    }
    Ok(tree)
}

/// Opens a source of the host. It is looked at and cloned through one
/// descriptor, so nothing can be swapped in between.
fn on_host(from: &Path) -> Result<(Tree, SFlag)> {
    let place = || format!("source {}", from.display());
    let opened = open_reference(from).with_context(place)?;
    let filesystem = filesystem_of(opened.as_fd()).with_context(place)?;
    if filesystem.is_kernel_interface() {
        bail!(
            "source {} is on a {} filesystem, which no wasm guest may see",
            from.display(),
            filesystem.name()
        );
    }
    let kind = kind_of(opened.as_fd())?;
    if kind != SFlag::S_IFDIR && kind != SFlag::S_IFREG {
        bail!("source {} is neither a directory nor a regular file", from.display());
    }
    let tree = Tree::clone_of_fd(opened.as_fd()).with_context(place)?;
    Ok((tree, kind))
}

fn kind_of(fd: BorrowedFd<'_>) -> Result<SFlag> {
    let kind = SFlag::from_bits_truncate(fstat(fd)?.st_mode);
    Ok(kind & SFlag::S_IFMT)
}

/// Where a file that does not exist would be made, once every symlink above it
/// is followed: an overlay joins directories, it does not follow symlinks.
fn real_place(directory: BorrowedFd<'_>, path: &Path) -> Result<PathBuf> {
    let mut missing: Vec<&OsStr> = Vec::new();
    let mut above = path;
    loop {
        missing.push(above.file_name().context("a mounted file without a name")?);
        above = above.parent().unwrap_or(Path::new(""));
        let folder = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match open_in_root(directory, folder, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Ok(found) => {
                let mut real = relative_place(directory, found.as_fd())?;
                real.extend(missing.iter().rev());
                return Ok(real);
            }
            Err(error) if folder == Path::new(".") => return Err(error.into()),
            // A missing or dangling folder: the overlay brings its own.
            Err(_) => {}
        }
    }
}

/// The path from one open directory to another below it.
fn relative_place(above: BorrowedFd<'_>, below: BorrowedFd<'_>) -> Result<PathBuf> {
    let (above, below) = (path_of(above)?, path_of(below)?);
    let relative = below.strip_prefix(&above);
    Ok(relative.with_context(|| format!("{} is not in the root", below.display()))?.to_owned())
}

/// Lays a read-only overlay with empty files over the container's root.
fn cover_with_stubs(root: BorrowedFd<'_>, stubs: &[PathBuf]) -> Result<()> {
    let upper = Tree::tmpfs(Some(1 << 20), 0o755, Some(4096))?;
    for stub in stubs {
        make_stub(upper.as_fd(), stub)?;
    }
    make_folder(root, STUBS)?;
    upper.attach(root, Path::new(STUBS))?;
    let base = Path::new(NEW_ROOT);
    let overlay = Tree::overlay_of(&[&base.join(STUBS), &base.join(grant_folder(0))])?;
    overlay.restrict(MountFlags::GUEST)?;
    overlay.attach(root, Path::new(&grant_folder(0)))?;
    Ok(())
}

fn make_stub(upper: BorrowedFd<'_>, stub: &Path) -> Result<()> {
    let mut folder = PathBuf::new();
    for component in stub.parent().into_iter().flat_map(Path::components) {
        folder.push(component);
        make_folder(upper, &folder)?;
    }
    open_in_root(upper, stub, OFlag::O_CREAT | OFlag::O_WRONLY)?;
    Ok(())
}

fn make_folder(at: BorrowedFd<'_>, path: &(impl nix::NixPath + ?Sized)) -> Result<()> {
    match mkdirat(at, path, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).context("cannot make a folder in the new root"),
    }
}

fn open_beneath(root: BorrowedFd<'_>, folder: &str) -> Result<OwnedFd> {
    Ok(open_in_root(root, Path::new(folder), OFlag::O_PATH | OFlag::O_DIRECTORY)?)
}

/// Where a grant is attached, from the new root.
fn grant_folder(place: usize) -> String {
    format!("g/{place}")
}

/// The same place once the new root is the root.
fn grant_path(place: usize) -> PathBuf {
    Path::new("/").join(grant_folder(place))
}

fn preopen(place: usize, guest: String, access: Access) -> Preopen {
    Preopen { host: grant_path(place), guest, access }
}
