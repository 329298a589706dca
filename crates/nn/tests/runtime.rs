//! The process-wide settings; one test, because they can be made once per process.

#[test]
fn init_sets_the_pool_once() {
    let runtime = semlink_nn::runtime::init(Some(3)).unwrap();
    assert_eq!(runtime.threads, 3);
    assert_eq!(rayon::current_num_threads(), 3);
    assert_eq!(runtime.allocator_tuned, cfg!(all(target_os = "linux", target_env = "gnu")));
    assert!(semlink_nn::runtime::init(None).is_err(), "the second call");
}
