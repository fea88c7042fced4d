//! `cargo xtask isa` on a simulated GPU: it passes on its own baseline and fails on planted spills and regressions.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PIPELINE: &str = "linear.matvec.q4_k.f32 WG=128 ROWS=8";

/// The tool on one device, with what it needs to find Mesa where tools/test found it.
fn isa(baselines: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vkllm-tools"));
    command.args(["isa", "--device", "navi31", "--baselines"]).arg(baselines);
    let shim = std::env::var("VKLLM_TEST_SHIM").unwrap_or_default();
    if let Some((root, _)) = shim.split_once("/usr/").filter(|(root, _)| !root.is_empty()) {
        command.args(["--mesa", root]);
    }
    command.args(arguments).output().expect("the tool starts")
}

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

/// An empty folder of this test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder in the target folder");
    folder
}

/// False, and counted, where no GPU can be simulated.
fn there(output: &Output) -> bool {
    let missing = text(output).contains("MISSING");
    if missing {
        let reason = "isa: no GPU can be simulated: mesa-drm-shim or RADV is not installed";
        eprintln!("skipped: {reason}");
        if let Some(path) = std::env::var_os("VKLLM_TEST_SKIPS") {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            file.and_then(|mut file| writeln!(file, "{reason}")).expect("the list of skips can be written");
        }
    }
    !missing
}

/// The one baseline under a folder.
fn baseline(folder: &Path) -> PathBuf {
    let version = std::fs::read_dir(folder).unwrap().next().expect("a folder of a version").unwrap().path();
    version.join("navi31.tsv")
}

#[test]
fn a_regression_fails_until_it_is_blessed() {
    let folder = folder("isa-regression");
    let first = isa(&folder, &["--filter", PIPELINE, "--bless"]);
    if !there(&first) {
        assert!(!first.status.success(), "a named device that is missing is a failure: {}", text(&first));
        return;
    }
    assert!(first.status.success(), "{}", text(&first));
    let same = isa(&folder, &["--filter", PIPELINE]);
    assert!(same.status.success() && text(&same).contains(" ok"), "{}", text(&same));

    let path = baseline(&folder);
    let good = std::fs::read_to_string(&path).unwrap();
    // The baseline of a time when the kernel had ten instructions.
    let column = good.lines().nth(1).unwrap().split('\t').position(|name| name == "instructions").unwrap();
    let planted: Vec<String> = good
        .lines()
        .map(|line| {
            let mut cells: Vec<&str> = line.split('\t').collect();
            if line.starts_with(PIPELINE) {
                cells[column] = "10";
            }
            cells.join("\t") + "\n"
        })
        .collect();
    std::fs::write(&path, planted.concat()).unwrap();
    let worse = isa(&folder, &["--filter", PIPELINE]);
    assert_eq!(worse.status.code(), Some(1), "{}", text(&worse));
    assert!(text(&worse).contains(&format!("navi31: {PIPELINE}: instructions 10 → ")), "{}", text(&worse));
    assert!(isa(&folder, &["--filter", PIPELINE, "--bless"]).status.success());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), good, "the driver gives the same numbers every time");
}

#[test]
fn a_spill_fails_and_machine_code_is_shown() {
    let folder = folder("isa-spill");
    // Sums of 300 rows do not fit in 256 registers.
    let filter = ["--filter", "linear.matvec.q8_0.q8 WG=128 ROWS=8"];
    let spilled = isa(&folder, &[&filter[..], &["--set", "ROWS=300"]].concat());
    if !there(&spilled) {
        return;
    }
    assert_eq!(spilled.status.code(), Some(1), "{}", text(&spilled));
    assert!(text(&spilled).contains("a decode kernel may have none"), "{}", text(&spilled));
    let shown = isa(&folder, &["--show", filter[1]]);
    assert!(shown.status.success() && text(&shown).contains("v_dot4_i32_iu8"), "{}", text(&shown));
    assert!(!isa(&folder, &["--filter", "no such kernel"]).status.success());
}
