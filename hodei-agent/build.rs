//! What the linker has to know of a static program.

fn main() {
    let is =
        |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is.split(',').any(|one| one == value));
    // The standard library looks for it at run time, which finds nothing in a static program that does not ask for it:
    // each job with a directory of its own would then be forked, which is ten times as slow.
    if is("CARGO_CFG_TARGET_FEATURE", "crt-static") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,-u,posix_spawn_file_actions_addchdir_np");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
