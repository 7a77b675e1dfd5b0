//! CUDA C++ → PTX by NVRTC, NVIDIA's compiler as a library; it needs no GPU. Its library comes out of a Python wheel into
//! .deps/nvrtc, as `onnxruntime.rs` does with another.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;

use anyhow::{Context, Result, bail, ensure};
use libloading::Library;

use crate::process::{program, workspace};

/// CUDA 12.2: the driver of a board must be at least as new as the compiler of the PTX, and JetPack 6.0 has 12.2. Newer
/// ones, up to those of CUDA 13, take it as well.
const VERSION: &str = "12.2.140";
const LIBRARY: &str = "libnvrtc.so.12";
const UNPACK: &str = "
import pathlib, sys, zipfile
wheel = next(pathlib.Path(sys.argv[1]).glob('nvidia_cuda_nvrtc*.whl'))
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        file = pathlib.PurePath(name).name
        if file.startswith('libnvrtc') or file == 'License.txt':
            pathlib.Path(sys.argv[2], file).write_bytes(archive.read(name))
";

fn place() -> PathBuf {
    workspace().join(".deps/nvrtc")
}

fn installed() -> Option<PathBuf> {
    let library = place().join(LIBRARY);
    let is_version = fs::read_to_string(place().join("version")).is_ok_and(|version| version.trim() == VERSION);
    (is_version && library.is_file()).then_some(library)
}

/// Makes sure that the library is there.
fn ensure_library() -> Result<PathBuf> {
    if let Some(library) = installed() {
        return Ok(library);
    }
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "NVRTC is fetched for Linux on x86-64 only; elsewhere the committed .ptx files are used as they are"
    );
    let deps = workspace().join(".deps");
    let (wheels, unpacked) = (deps.join("nvrtc-wheel.tmp"), deps.join("nvrtc.tmp"));
    // Left by a run that was interrupted.
    for folder in [&wheels, &unpacked] {
        fs::remove_dir_all(folder).ok();
        fs::create_dir_all(folder).with_context(|| format!("could not create {}", folder.display()))?;
    }
    eprintln!("fetching NVRTC {VERSION} (about 21 MB) with pip into {}, once", place().display());
    let outcome = fetch(&wheels, &unpacked);
    fs::remove_dir_all(&wheels).ok();
    outcome?;
    fs::remove_dir_all(place()).ok();
    // By one rename, so that what is there is whole.
    fs::rename(&unpacked, place()).with_context(|| format!("could not make {}", place().display()))?;
    installed().with_context(|| format!("{} was unpacked but is not NVRTC {VERSION}", place().display()))
}

fn fetch(wheels: &Path, unpacked: &Path) -> Result<()> {
    program("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"])
        .arg("-d")
        .arg(wheels)
        .arg(format!("nvidia-cuda-nvrtc-cu12=={VERSION}"))
        .run("download NVRTC with pip (is python3 -m pip there, and a network?)")?;
    program("python3").arg("-c").arg(UNPACK).arg(wheels).arg(unpacked).run("unpack NVRTC (is the disk full?)")?;
    fs::write(unpacked.join("version"), VERSION).with_context(|| format!("could not write in {}", unpacked.display()))
}

type Handle = *mut c_void;

/// The compiler, opened.
pub struct Nvrtc {
    library: Library,
}

impl Nvrtc {
    /// Fetches the library where it is not there, and opens it.
    pub fn open() -> Result<Self> {
        let path = ensure_library()?;
        // SAFETY: NVIDIA's library of the pinned version; its initialisers need nothing.
        let library = unsafe { Library::new(&path) }.with_context(|| format!("could not open {}", path.display()))?;
        Ok(Self { library })
    }

    /// The PTX of a source that may include `headers` (name, text). `options` as nvcc's.
    pub fn compile(&self, name: &str, source: &str, headers: &[(&str, &str)], options: &[&str]) -> Result<String> {
        let c = |text: &str| CString::new(text).with_context(|| format!("{name}: a zero byte in {text:.20}"));
        let (source, c_name) = (c(source)?, c(name)?);
        let names = headers.iter().map(|(name, _)| c(name)).collect::<Result<Vec<_>>>()?;
        let texts = headers.iter().map(|(_, text)| c(text)).collect::<Result<Vec<_>>>()?;
        let options = options.iter().map(|option| c(option)).collect::<Result<Vec<_>>>()?;
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<*const c_char>>();
        let (names, texts, options) = (pointers(&names), pointers(&texts), (pointers(&options), options));
        // SAFETY: the signatures are those of nvrtc.h 12; all strings end with zero and outlive the calls; the program is
        // destroyed once, after its last use.
        unsafe {
            let create = self.library.get::<unsafe extern "C" fn(
                *mut Handle,
                *const c_char,
                *const c_char,
                c_int,
                *const *const c_char,
                *const *const c_char,
            ) -> c_int>(b"nvrtcCreateProgram\0")?;
            let compile = self
                .library
                .get::<unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int>(b"nvrtcCompileProgram\0")?;
            let destroy = self.library.get::<unsafe extern "C" fn(*mut Handle) -> c_int>(b"nvrtcDestroyProgram\0")?;
            let mut handle = ptr::null_mut();
            let number = headers.len() as c_int;
            let code = create(&mut handle, source.as_ptr(), c_name.as_ptr(), number, texts.as_ptr(), names.as_ptr());
            ensure!(code == 0, "NVRTC could not begin with {name}: error {code}");
            let code = compile(handle, options.0.len() as c_int, options.0.as_ptr());
            let log = self.text(handle, b"nvrtcGetProgramLogSize\0", b"nvrtcGetProgramLog\0");
            let ptx =
                if code == 0 { self.text(handle, b"nvrtcGetPTXSize\0", b"nvrtcGetPTX\0") } else { Ok(String::new()) };
            destroy(&mut handle);
            let log = log?;
            if code != 0 {
                bail!("NVRTC does not take {name}: error {code}\n{}", log.trim_end());
            }
            if !log.trim().is_empty() {
                eprintln!("{}", log.trim_end());
            }
            ptx
        }
    }

    /// A text of a program, by the functions for its size and itself.
    ///
    /// # Safety
    /// The handle must be a program, and the names those of such a pair.
    unsafe fn text(&self, handle: Handle, size: &[u8], get: &[u8]) -> Result<String> {
        // SAFETY: the signatures are those of nvrtc.h; the buffer has the size that the library asks for.
        unsafe {
            let size = self.library.get::<unsafe extern "C" fn(Handle, *mut usize) -> c_int>(size)?;
            let get = self.library.get::<unsafe extern "C" fn(Handle, *mut c_char) -> c_int>(get)?;
            let mut len = 0;
            ensure!(size(handle, &mut len) == 0, "NVRTC does not tell a length");
            let mut bytes = vec![0u8; len];
            ensure!(get(handle, bytes.as_mut_ptr().cast()) == 0, "NVRTC does not give a text");
            bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(len));
            String::from_utf8(bytes).context("NVRTC's text is not UTF-8")
        }
    }
}
