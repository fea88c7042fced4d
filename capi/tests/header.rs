//! The header that is checked in is the one that cbindgen makes of the sources.

use std::path::Path;

#[test]
fn the_header_is_fresh() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).expect("a configuration");
    let builder = ["guard", "types", "lib"]
        .iter()
        .fold(cbindgen::Builder::new().with_config(config), |builder, file| {
            builder.with_src(folder.join("src").join(file).with_extension("rs"))
        });
    let mut made = Vec::new();
    builder.generate().expect("a header").write(&mut made);
    let path = folder.join("include/vkllm.h");
    if std::fs::read(&path).unwrap_or_default() != made {
        let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vkllm.h");
        std::fs::write(&fresh, made).expect("a file in the target folder");
        panic!("{} is not what the sources say; cp {} there", path.display(), fresh.display());
    }
}
