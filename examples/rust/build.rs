// SPDX-License-Identifier: MIT OR Apache-2.0
//! The binding is made from rdma-core's own headers. Its calls that post and poll are inline functions, for
//! which bindgen writes wrappers in C.

use std::path::PathBuf;

fn main() {
    let dir = |name| PathBuf::from(std::env::var_os(name).expect("cargo sets it"));
    let out = dir("OUT_DIR");
    let wrappers = out.join("wrappers.c");
    bindgen::Builder::default()
        .header(
            dir("CARGO_MANIFEST_DIR")
                .join("src/rdma.h")
                .to_string_lossy(),
        )
        .allowlist_function(
            "rdma_(getaddrinfo|freeaddrinfo|create_ep|destroy_ep|listen|get_request)",
        )
        .allowlist_function("rdma_(accept|disconnect|get_cm_event|ack_cm_event)")
        .allowlist_function("rdma_(reg_msgs|dereg_mr|post_recv|get_recv_comp)")
        .allowlist_function("ibv_(reg_mr|dereg_mr)")
        .allowlist_type("ibv_access_flags|rdma_port_space")
        .allowlist_var("RAI_.*")
        .prepend_enum_name(false)
        .derive_default(true)
        .layout_tests(false)
        .wrap_static_fns(true)
        .wrap_static_fns_path(&wrappers)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .generate()
        .expect("bindings of librdmacm: are librdmacm-dev and libclang installed?")
        .write_to_file(out.join("rdma.rs"))
        .expect("the bindings can be written");
    cc::Build::new()
        .file(wrappers)
        .warnings(false)
        .compile("rdma_wrappers");
    println!("cargo:rustc-link-lib=rdmacm");
    println!("cargo:rustc-link-lib=ibverbs");
}
