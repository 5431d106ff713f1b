//! Modules out of what they are packed in.

use std::io::{self, Read};

use flate2::read::GzDecoder;
use tar::Archive;

use super::{MAGIC, client::LARGEST};

/// What gzip begins with.
const GZIP: &[u8] = b"\x1f\x8b";
/// What an entry of a tar archive has at its place.
const TAR: (usize, &[u8]) = (257, b"ustar");
/// The file of an image that is the module.
const PLUGIN: &str = "plugin.wasm";

/// Returns the module that stands by itself, or as the first file of an archive, compressed or not. What is none of this is returned as
/// it is.
pub(super) fn unboxed(mut bytes: Vec<u8>) -> Vec<u8> {
    // Each step unpacks one layer; nobody wraps a module more often.
    for _ in 0..4 {
        let inner = match () {
            () if bytes.starts_with(MAGIC) => return bytes,
            () if bytes.starts_with(GZIP) => bounded(GzDecoder::new(&bytes[..])),
            () if bytes.get(TAR.0..).is_some_and(|rest| rest.starts_with(TAR.1)) => first_file(&bytes),
            () => return bytes,
        };
        match inner {
            Ok(inner) => bytes = inner,
            Err(_) => return bytes,
        }
    }
    bytes
}

/// Returns the module of an image's layer: a compressed archive.
///
/// # Errors
/// When it is none, or the module is not in it.
pub(super) fn of_layer(layer: &[u8]) -> Result<Vec<u8>, String> {
    let archive = bounded(GzDecoder::new(layer)).map_err(|error| format!("its layer is no gzip: {error}"))?;
    let mut archive = Archive::new(&archive[..]);
    let broken = |error: io::Error| format!("its layer is no tar archive: {error}");
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let is_module = entry.path().is_ok_and(|path| path.file_name().is_some_and(|name| name == PLUGIN));
        if is_module {
            return bounded(entry).map_err(broken);
        }
    }
    Err(format!("its layer has no {PLUGIN}"))
}

fn first_file(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(archive);
    let entry = archive.entries()?.next().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))??;
    bounded(entry)
}

/// Reads all of it, unless that is too much: a few bytes may unpack to any number.
fn bounded(packed: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    packed.take(LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LARGEST { Err(io::Error::other(format!("has more than {LARGEST} bytes"))) } else { Ok(bytes) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_module_is_found_in_whatever_it_is_packed_in() {
        let module = b"\0asm\x01\0\0\0".to_vec();
        let packed = tar(&[("x.wasm", &module)]);
        for form in [module.clone(), gzip(&module), packed.clone(), gzip(&packed)] {
            assert_eq!(unboxed(form), module);
        }
        for other in [b"hello".to_vec(), gzip(b"hello")[..8].to_vec(), Vec::new()] {
            assert_eq!(unboxed(other.clone()), other);
        }
    }

    #[test]
    fn the_layer_of_an_image_has_the_module_under_its_name() {
        let module = b"\0asm\x01\0\0\0";
        assert_eq!(of_layer(&gzip(&tar(&[("README", b"x"), ("dir/plugin.wasm", module)]))), Ok(module.to_vec()));
        assert!(of_layer(&gzip(&tar(&[("other.wasm", module)]))).unwrap_err().contains("no plugin.wasm"));
        assert!(of_layer(module).unwrap_err().contains("no gzip"));
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        let bomb = gzip(&vec![0; LARGEST + 1]);
        assert!(bomb.len() < 1 << 20);
        assert!(of_layer(&bomb).unwrap_err().contains("more than"));
        assert_eq!(unboxed(bomb.clone()), bomb);
    }
}
