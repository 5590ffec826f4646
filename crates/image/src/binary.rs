//! Tells what a file is from its first bytes.

/// How many first bytes of a file [`identify`] wants; fewer are fine.
pub const PEEK: usize = 512;

const ELF_MAGIC: &[u8] = b"\x7fELF";
const WASM_MAGIC: &[u8] = b"\0asm";
/// Where an ELF header says whose binary interface it follows.
const ELF_OSABI: usize = 7;
/// The value Wasmtime writes there in its precompiled artefacts.
const ELF_OSABI_WASMTIME: u8 = 200;

/// What the first bytes of a file say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// An ELF program or library of Linux.
    Elf,
    /// A text that starts with `#!`.
    Script,
    /// A core wasm module.
    CoreModule,
    /// A wasm component.
    Component,
    /// Native code written by Wasmtime ahead of time. Never run from an image.
    Precompiled,
    /// The wasm magic number without a version this runtime knows behind it.
    OtherWasm,
    /// The text form of wasm.
    WasmText,
    /// No bytes at all.
    Empty,
    /// Not a regular file: a directory, a FIFO, a device. The caller finds
    /// this out by its `fstat`; [`identify`] never returns it.
    NotAFile,
    /// None of the above.
    Unknown,
}

impl Binary {
    /// Says that the engine can be given this file.
    pub fn is_runnable_wasm(self) -> bool {
        matches!(self, Self::CoreModule | Self::Component)
    }

    /// Returns the words for an error or a log line.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Elf => "an ELF program",
            Self::Script => "a #! script",
            Self::CoreModule => "a core wasm module",
            Self::Component => "a wasm component",
            Self::Precompiled => "precompiled native code of Wasmtime",
            Self::OtherWasm => "a wasm binary of an unknown or cut version",
            Self::WasmText => "wasm in text form",
            Self::Empty => "an empty file",
            Self::NotAFile => "not a regular file",
            Self::Unknown => "neither wasm, nor ELF, nor a script",
        }
    }
}

/// Returns what a file is whose first [`PEEK`] bytes (or all, if it is
/// shorter) are `first`.
pub fn identify(first: &[u8]) -> Binary {
    if first.is_empty() {
        Binary::Empty
    } else if first.starts_with(b"#!") {
        Binary::Script
    } else if first.starts_with(ELF_MAGIC) {
        match first.get(ELF_OSABI) {
            Some(&ELF_OSABI_WASMTIME) => Binary::Precompiled,
            _ => Binary::Elf,
        }
    } else if let Some(version) = first.strip_prefix(WASM_MAGIC) {
        wasm_kind(version)
    } else if is_wasm_text(first) {
        Binary::WasmText
    } else {
        Binary::Unknown
    }
}

/// Reads the four bytes behind the magic number: a version and a layer, both
/// 16 bits, little-endian (component model, "Binary.md").
fn wasm_kind(version: &[u8]) -> Binary {
    match version {
        [0x01, 0x00, 0x00, 0x00, ..] => Binary::CoreModule,
        [0x0d, 0x00, 0x01, 0x00, ..] => Binary::Component,
        _ => Binary::OtherWasm,
    }
}

/// Says whether, after blanks and comments, `(module` or `(component` follows.
fn is_wasm_text(mut rest: &[u8]) -> bool {
    loop {
        rest = rest.trim_ascii_start();
        if rest.starts_with(b";;") {
            let line = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            rest = &rest[line..];
        } else if rest.starts_with(b"(;") {
            let Some(end) = rest.windows(2).position(|pair| pair == b";)") else {
                return false;
            };
            rest = &rest[end + 2..];
        } else {
            return rest.starts_with(b"(module") || rest.starts_with(b"(component");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_bytes_name_the_kind() {
        let mut cwasm = b"\x7fELF\x02\x01\x01\xc8".to_vec();
        cwasm.extend([0; 56]);
        let table: [(&[u8], Binary); 18] = [
            (b"", Binary::Empty),
            (b"#!/bin/sh\n", Binary::Script),
            (b"#!", Binary::Script),
            (b"\x7fELF\x02\x01\x01\x00", Binary::Elf),
            (b"\x7fELF", Binary::Elf),
            (&cwasm, Binary::Precompiled),
            (b"\0asm\x01\0\0\0", Binary::CoreModule),
            (b"\0asm\x01\0\0\0\x01", Binary::CoreModule),
            (b"\0asm\x0d\0\x01\0", Binary::Component),
            (b"\0asm\x02\0\0\0", Binary::OtherWasm),
            (b"\0asm\x0a\0\x01\0", Binary::OtherWasm),
            (b"\0asm", Binary::OtherWasm),
            (b"\0asm\x01", Binary::OtherWasm),
            (b"\0as", Binary::Unknown),
            (b"(module)", Binary::WasmText),
            (b" ;; hello\n (; a ;)\t(component $x)", Binary::WasmText),
            (b"(; never closed (module)", Binary::Unknown),
            (b"hello", Binary::Unknown),
        ];
        for (bytes, kind) in table {
            assert_eq!(identify(bytes), kind, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn identifying_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _kind = identify(&bytes);
        }

        #[test]
        fn identifying_near_text_never_panics(text in "[;() \n]{0,40}(module)?") {
            let _kind = identify(text.as_bytes());
        }

        #[test]
        fn no_first_bytes_claim_not_to_be_a_file(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            prop_assert_ne!(identify(&bytes), Binary::NotAFile);
        }
    }
}
