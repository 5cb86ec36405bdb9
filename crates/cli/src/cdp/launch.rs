//! Finds Chromium and decides the flags that it is started with.

use std::env;
use std::path::{Path, PathBuf};

/// Which GPU the browser may use for WebGPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gpu {
    /// The machine's GPU if there seems to be one, else the software adapter.
    #[default]
    Auto,
    /// The machine's GPU.
    Hardware,
    /// SwiftShader, Chromium's software adapter. Correct, and slower than wasm.
    Software,
    /// None: `navigator.gpu` gives no adapter.
    Off,
}

/// How to start the browser.
#[derive(Debug, Clone, Default)]
pub struct LaunchOptions {
    /// The program; found by [`find_chromium`] if it is not given.
    pub program: Option<PathBuf>,
    /// Which GPU it may use.
    pub gpu: Gpu,
    /// Show windows instead of running headless.
    pub headed: bool,
    /// Further flags.
    pub extra_args: Vec<String>,
}

const NAMES: [&str; 7] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "msedge",
];

const PLACES: [&str; 4] = [
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
];

/// The Chromium to use: `$CHROME` if it is set, else the first known name on the `PATH` or in a usual place.
pub fn find_chromium() -> Option<PathBuf> {
    if let Some(named) = env::var_os("CHROME").filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        return if named.is_file() { Some(named) } else { on_path(named.to_str()?) };
    }
    NAMES
        .iter()
        .find_map(|name| on_path(name))
        .or_else(|| PLACES.iter().map(PathBuf::from).find(|place| place.is_file()))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .flat_map(|folder| [folder.join(name), folder.join(format!("{name}.exe"))])
        .find(|file| file.is_file())
}

/// The flags for a browser that works unseen: nothing it does may depend on being looked at, and it talks to nobody
/// but the pages it is sent to.
pub(super) fn arguments(options: &LaunchOptions, profile: &Path, root: bool) -> Vec<String> {
    let mut args: Vec<String> = [
        "--remote-debugging-port=0",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-domain-reliability",
        "--disable-extensions",
        "--disable-quic",
        "--disable-sync",
        "--disable-popup-blocking",
        "--disable-search-engine-choice-screen",
        "--metrics-recording-only",
        "--mute-audio",
        "--password-store=basic",
        "--use-mock-keychain",
        // Tabs behind other tabs lend as much as the one in front.
        "--disable-background-timer-throttling",
        "--disable-backgrounding-occluded-windows",
        "--disable-renderer-backgrounding",
        "--disable-hang-monitor",
        "--disable-ipc-flooding-protection",
        // Containers often have a /dev/shm of 64 MB, too small for several tabs.
        "--disable-dev-shm-usage",
    ]
    .map(str::to_owned)
    .into();
    args.push(format!("--user-data-dir={}", profile.display()));
    if !options.headed {
        args.push("--headless=new".to_owned());
    }
    if root {
        // Chromium's sandbox refuses to run as root; as anybody else it stays on.
        args.push("--no-sandbox".to_owned());
    }
    let gpu = match options.gpu {
        Gpu::Auto if has_gpu() => Gpu::Hardware,
        Gpu::Auto => Gpu::Software,
        other => other,
    };
    let vulkan = cfg!(target_os = "linux");
    match gpu {
        Gpu::Software => {
            args.extend(["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"].map(str::to_owned));
        }
        Gpu::Hardware | Gpu::Auto => args.push("--enable-unsafe-webgpu".to_owned()),
        Gpu::Off => args.push("--disable-gpu".to_owned()),
    }
    if vulkan && gpu != Gpu::Off {
        args.push("--enable-features=Vulkan".to_owned());
    }
    args.extend(options.extra_args.iter().cloned());
    args.push("about:blank".to_owned());
    args
}

/// Whether the machine seems to have a GPU. Only Linux machines usually lack one.
fn has_gpu() -> bool {
    if !cfg!(target_os = "linux") {
        return true;
    }
    let render_node = |folder: &str| {
        std::fs::read_dir(folder).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
        })
    };
    render_node("/dev/dri") || Path::new("/dev/nvidia0").exists()
}

/// Whether this process runs as root, told by who owns a folder that it just made.
pub(super) fn runs_as_root(own_folder: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(own_folder).is_ok_and(|meta| meta.uid() == 0)
    }
    #[cfg(not(unix))]
    {
        let _ = own_folder;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandbox_goes_only_for_root_and_windows_only_on_request() {
        let has = |options: &LaunchOptions, root, flag: &str| {
            arguments(options, Path::new("/p"), root).iter().any(|arg| arg == flag)
        };
        let options = LaunchOptions::default();
        assert!(has(&options, true, "--no-sandbox"));
        assert!(!has(&options, false, "--no-sandbox"));
        assert!(has(&options, false, "--headless=new"));
        assert!(!has(&LaunchOptions { headed: true, ..options }, false, "--headless=new"));
        assert!(has(&LaunchOptions { gpu: Gpu::Off, ..Default::default() }, false, "--disable-gpu"));
    }
}
