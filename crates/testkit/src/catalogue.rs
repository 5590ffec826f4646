//! The images tests, demo and benches share, each written once into the scratch folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::containerd::PAUSE_IMAGE;
use crate::image::{Archive, Files, Image, Index, Layer, media_type};
use crate::{guest, language, place};

/// The platform most wasm images name today.
pub const WASM_PLATFORM: &str = "wasip1/wasm";

/// Platform strings seen on wasm images in registries.
pub const WASM_PLATFORMS: [&str; 5] =
    ["wasi/wasm", "wasip1/wasm", "wasip2/wasm", "wasi/wasm32", "wasm32/wasi"];

const BUSYBOX: &str = "/usr/bin/busybox";
/// The applets that get a link; every other is reached as `busybox NAME`.
const APPLETS: [&str; 40] = [
    "cat", "chmod", "cp", "date", "dd", "df", "echo", "env", "false", "find", "free", "grep",
    "head", "hostname", "id", "ip", "kill", "ln", "ls", "mkdir", "mount", "mv", "nc", "printf",
    "ps", "pwd", "rm", "sed", "seq", "sh", "sleep", "stat", "stty", "sync", "tail", "touch",
    "true", "uname", "wc", "wget",
];

/// A module alone in a wasm layer, that prints its arguments and environment.
pub fn hello_wasm() -> Result<Archive> {
    guest_image("hello")
}

/// The text guest `test-images/wat/<guest>.wat` alone in a wasm layer.
pub fn guest_image(guest: &str) -> Result<Archive> {
    keep(module_image(guest, guest::wat(guest)?))
}

/// The C guest `test-images/c/<guest>.c` alone in a wasm layer.
pub fn c_image(guest: &str) -> Result<Archive> {
    keep(module_image(&format!("c-{guest}"), guest::c(guest)?))
}

/// The Go guest `test-images/go/<guest>` alone in a wasm layer.
pub fn go_image(guest: &str) -> Result<Archive> {
    keep(module_image(&format!("go-{guest}"), guest::go(guest)?))
}

/// A pure wasm image with this module, not yet written: tests add to it.
pub fn module_image(name: &str, module: impl Into<Vec<u8>>) -> Image {
    Image::new(&format!("docker.io/hybrid/{name}:1"))
        .platform(WASM_PLATFORM)
        .layer(Layer::wasm(module))
        .entrypoint([format!("/{name}.wasm")])
}

/// A module in a wasm layer beside a tar layer with files: `/data/note.txt` and an empty `/tmp`.
pub fn hello_mixed() -> Result<Archive> {
    keep(mixed_image("mixed-hello", guest::wat("hello")?))
}

/// The C guest `files` in a wasm layer beside the same files.
pub fn files_mixed() -> Result<Archive> {
    keep(mixed_image("mixed-files", guest::c("files")?))
}

/// An image of a wasm layer and a tar layer, not yet written.
pub fn mixed_image(name: &str, module: impl Into<Vec<u8>>) -> Image {
    module_image(name, module).layer(Layer::tar_gzip(note_files()))
}

/// The module as a file in an ordinary tar layer of a `linux/amd64` image: what containerd 1.6 and registries without
/// wasm support can hold.
pub fn hello_file() -> Result<Archive> {
    keep(file_image("file-hello", guest::wat("hello")?))
}

/// The text guest as a file in an ordinary tar layer of a `linux/amd64` image.
pub fn guest_file(guest: &str) -> Result<Archive> {
    keep(file_image(&format!("file-{guest}"), guest::wat(guest)?))
}

/// An image of one tar layer with `/app.wasm`, not yet written.
pub fn file_image(name: &str, module: impl Into<Vec<u8>>) -> Image {
    Image::new(&format!("docker.io/hybrid/{name}:1"))
        .layer(Layer::tar_gzip(note_files().executable("/app.wasm", module)))
        .entrypoint(["/app.wasm"])
}

/// One name for two platforms: busybox for `linux/amd64`, the hello module for `wasip1/wasm`.
pub fn multi() -> Result<Archive> {
    Index::new("docker.io/hybrid/multi:1")
        .image(busybox_image("multi-linux")?.command(["echo", "hello from linux"]))
        .image(module_image("multi-wasm", guest::wat("hello")?))
        .write_to(&folder())
}

/// Debian's static busybox with links for its usual applets.
pub fn busybox() -> Result<Archive> {
    keep(busybox_image("busybox")?)
}

/// The busybox image under another name, not yet written.
pub fn busybox_image(name: &str) -> Result<Image> {
    let binary = fs::read(BUSYBOX)
        .with_context(|| format!("reading {BUSYBOX}; `testkit install` brings busybox-static"))?;
    let mut files = APPLETS
        .iter()
        .fold(Files::new(), |files, applet| files.link(&format!("/bin/{applet}"), "busybox"));
    files = files.executable("/bin/busybox", binary);
    for (path, mode) in
        [("/dev", 0o755), ("/proc", 0o555), ("/sys", 0o555), ("/tmp", 0o1777), ("/root", 0o700)]
    {
        files = files.directory(path, mode);
    }
    files = files
        .file(
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n",
            0o644,
        )
        .file("/etc/group", "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n", 0o644);
    Ok(Image::new(&format!("docker.io/hybrid/{name}:1"))
        .layer(Layer::tar_gzip(files))
        .env("PATH=/bin")
        .command(["sh"]))
}

/// The image that holds a pod's namespaces open.
pub fn pause() -> Result<Archive> {
    let files = Files::new().executable("/pause", guest::native("pause")?);
    Image::new(PAUSE_IMAGE).layer(Layer::tar_gzip(files)).entrypoint(["/pause"]).write_to(&folder())
}

/// The hello module under one of the wasm layer media types.
pub fn layer_type(media_type: &str) -> Result<Archive> {
    let number = media_type::WASM_LAYERS.iter().position(|known| *known == media_type);
    let name = number.map_or("layer-other".to_owned(), |number| format!("layer-{number}"));
    let image = Image::new(&format!("docker.io/hybrid/{name}:1"))
        .platform(WASM_PLATFORM)
        .layer(Layer::wasm_as(guest::wat("hello")?, media_type))
        .entrypoint(["/hello.wasm"]);
    keep(image)
}

/// The hello module under a platform string.
pub fn platform(platform: &str) -> Result<Archive> {
    let name = format!("platform-{}", platform.replace('/', "-"));
    keep(module_image(&name, guest::wat("hello")?).platform(platform))
}

/// Writes every image that is shared, for `testkit images`.
pub fn all() -> Result<Vec<Archive>> {
    let mut archives = Vec::new();
    for guest in text_guests()? {
        archives.push(guest_image(&guest)?);
    }
    archives.extend([
        c_image("hello")?,
        c_image("files")?,
        go_image("hello")?,
        hello_mixed()?,
        files_mixed()?,
        hello_file()?,
        multi()?,
        busybox()?,
        pause()?,
    ]);
    archives.extend(language::images()?);
    for media_type in media_type::WASM_LAYERS {
        archives.push(layer_type(media_type)?);
    }
    for name in WASM_PLATFORMS {
        archives.push(platform(name)?);
    }
    Ok(archives)
}

/// Returns the names of the guests under `test-images/wat`.
pub fn text_guests() -> Result<Vec<String>> {
    let folder = place::guests().join("wat");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
        let path = entry.context("listing guests")?.path();
        if path.extension().is_some_and(|extension| extension == "wat") {
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            names.extend(stem.map(str::to_owned));
        }
    }
    names.sort();
    Ok(names)
}

/// Writes an image beside the shared ones.
pub fn keep(image: Image) -> Result<Archive> {
    image.write_to(&folder())
}

/// Returns the folder of the shared images.
pub fn folder() -> PathBuf {
    place::scratch().join(Path::new("images"))
}

fn note_files() -> Files {
    Files::new().file("/data/note.txt", "a note from the image\n", 0o644).directory("/tmp", 0o1777)
}
