//! What requests read as, form by form and side by side.

use std::collections::BTreeMap;

use image::annotations::{
    FILESYSTEM, FILESYSTEM_MAX_FILES, FILESYSTEM_MAX_SIZE, FILESYSTEM_READ, FILESYSTEM_WRITE,
    NETWORK, NETWORK_HOSTS, NETWORK_MAX_CONNECTIONS, NETWORK_PORTS,
};
use proptest::prelude::*;

use super::*;

fn side(origin: Origin, found: &[(&str, &str)]) -> Annotations {
    let found: BTreeMap<String, String> =
        found.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let mut annotations = Annotations::default();
    annotations.add(origin, &found).unwrap();
    annotations
}

fn of(image: &[(&str, &str)], pod: &[(&str, &str)]) -> Result<Request, CapabilityError> {
    parse(&side(Origin::ConfigDescriptor, image), &side(Origin::Pod, pod))
}

fn shown<T: ToString>(entries: &[T]) -> Vec<String> {
    entries.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_asked_is_the_default_and_is_granted() {
    let request = of(&[], &[]).unwrap();
    assert_eq!(request, Request::default());
    assert_eq!(request.files.max_files, 100);
    assert_eq!(request.files.max_size, 10 << 20);
    assert_eq!(request.network.ports, [80, 443]);
    assert_eq!(request.network.max_connections, 10);
    assert_eq!(request.without_network(), Ok(()));
}

#[test]
fn both_forms_of_files_read_the_same() {
    let short = of(&[(FILESYSTEM, "read:/data,write:/tmp")], &[]).unwrap();
    let long = of(&[(FILESYSTEM_READ, "/data"), (FILESYSTEM_WRITE, "/tmp")], &[]).unwrap();
    assert_eq!(short, long);
    assert_eq!(shown(&short.files.read), ["/data"]);
    assert_eq!(shown(&short.files.write), ["/tmp"]);
    assert_eq!(short.without_network(), Ok(()));
}

#[test]
fn writes_outside_what_is_granted_are_found() {
    let beyond = |value, granted: &[&str]| {
        let files = of(&[(FILESYSTEM_WRITE, value)], &[]).unwrap().files;
        files.writes_beyond(granted).map(ToString::to_string)
    };
    assert_eq!(beyond("/tmp,/tmp/a", &["/tmp"]), None);
    assert_eq!(beyond("/tmp,/data/a", &["/data", "/tmp"]), None);
    assert_eq!(beyond("/tmp,/data", &["/tmp"]).as_deref(), Some("/data"));
    assert_eq!(beyond("/tmpfs", &["/tmp"]).as_deref(), Some("/tmpfs"));
    assert_eq!(beyond("/tmp", &[]).as_deref(), Some("/tmp"));
}

#[test]
fn both_forms_together_add_up_once() {
    let both = of(&[(FILESYSTEM, "read:/a, read:/b"), (FILESYSTEM_READ, "/b,/c")], &[]).unwrap();
    assert_eq!(shown(&both.files.read), ["/b", "/c", "/a"]);
}

#[test]
fn limits_are_read() {
    let request = of(
        &[
            (FILESYSTEM_MAX_FILES, "7"),
            (FILESYSTEM_MAX_SIZE, "1048576"),
            (NETWORK_PORTS, "8080, 9090,8080"),
            (NETWORK_MAX_CONNECTIONS, "3"),
        ],
        &[],
    )
    .unwrap();
    assert_eq!((request.files.max_files, request.files.max_size), (7, 1 << 20));
    assert_eq!(request.network.ports, [8080, 9090]);
    assert_eq!(request.network.max_connections, 3);
    assert_eq!(request.without_network(), Ok(()), "a bound alone asks for nothing");
}

#[test]
fn both_forms_of_network_ask_and_are_not_granted() {
    let table = [
        (NETWORK, "outbound_https"),
        (NETWORK, "outbound_http,outbound_https"),
        (NETWORK_HOSTS, "*.example.com"),
        (NETWORK_HOSTS, "192.0.2.1,example.com"),
    ];
    for (key, value) in table {
        let refused = of(&[(key, value)], &[]).unwrap().without_network().unwrap_err();
        let text = refused.to_string();
        let start =
            format!("annotation {key} of the manifest's config descriptor asks for \"{value}\"");
        assert!(text.starts_with(&start), "{text}");
    }
    let none = of(&[(NETWORK, "none")], &[]).unwrap();
    assert_eq!(none.without_network(), Ok(()));
}

#[test]
fn the_pods_word_replaces_the_images() {
    type Pairs = &'static [(&'static str, &'static str)];
    let image: Pairs = &[(FILESYSTEM, "read:/i,write:/j")];
    let long: Pairs = &[(FILESYSTEM_READ, "/i"), (FILESYSTEM_WRITE, "/j")];
    let table: [(Pairs, Pairs, &[&str], &[&str]); 7] = [
        (image, &[], &["/i"], &["/j"]),
        (image, &[(FILESYSTEM, "read:/p")], &["/p"], &[]),
        (image, &[(FILESYSTEM, "none")], &[], &[]),
        (image, &[(FILESYSTEM_READ, "/p")], &["/p"], &["/j"]),
        (long, &[(FILESYSTEM, "write:/p")], &[], &["/p"]),
        (long, &[(FILESYSTEM_WRITE, "/p")], &["/i"], &["/p"]),
        (&[], &[(FILESYSTEM_READ, "/p")], &["/p"], &[]),
    ];
    for (image, pod, read, write) in table {
        let files = of(image, pod).unwrap().files;
        assert_eq!(shown(&files.read), read, "{image:?} {pod:?}");
        assert_eq!(shown(&files.write), write, "{image:?} {pod:?}");
    }
}

#[test]
fn a_pod_can_take_the_network_away() {
    for asked in [(NETWORK, "outbound_https"), (NETWORK_HOSTS, "example.com")] {
        let request = of(&[asked], &[(NETWORK, "none")]).unwrap();
        assert_eq!(request.without_network(), Ok(()), "{asked:?}");
        assert!(of(&[asked], &[]).unwrap().without_network().is_err(), "{asked:?}");
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_key_value_and_reason() {
    let many = vec!["/a"; MAX_ENTRIES + 1].join(",");
    let table = [
        (FILESYSTEM, "/data", "neither read:PATH nor write:PATH"),
        (FILESYSTEM, "exec:/data", "neither read:PATH nor write:PATH"),
        (FILESYSTEM, "read:", "absolute"),
        (FILESYSTEM, "read:/data,", "is empty"),
        (FILESYSTEM, "none,read:/a", "neither"),
        (FILESYSTEM_READ, "data", "absolute"),
        (FILESYSTEM_READ, "/a/../b", ".."),
        (FILESYSTEM_READ, "/proc/self", "kernel"),
        (FILESYSTEM_READ, "/%2e%2e/etc", "escapes"),
        (FILESYSTEM_READ, &many, "more than 64"),
        (FILESYSTEM_WRITE, "/a//b", "two slashes"),
        (FILESYSTEM_MAX_FILES, "0", "from 1"),
        (FILESYSTEM_MAX_FILES, "-1", "from 1"),
        (FILESYSTEM_MAX_FILES, "+1", "from 1"),
        (FILESYSTEM_MAX_FILES, "many", "from 1"),
        (FILESYSTEM_MAX_FILES, "99999999999999999999", "from 1"),
        (FILESYSTEM_MAX_SIZE, "0", "at least 1"),
        (FILESYSTEM_MAX_SIZE, "10MB", "KiB"),
        (NETWORK, "inbound", "outbound_https"),
        (NETWORK, "none,outbound_http", "none alone"),
        (NETWORK_HOSTS, "https://example.com", "without scheme"),
        (NETWORK_PORTS, "0", "65535"),
        (NETWORK_PORTS, "65536", "65535"),
        (NETWORK_PORTS, "80-90", "65535"),
        (NETWORK_MAX_CONNECTIONS, "1.5", "from 1"),
    ];
    for (key, value, reason) in table {
        let refused = of(&[(key, value)], &[]).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("annotation {key} of ")), "{refused}");
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn an_unreadable_request_of_a_pod_is_not_rescued_by_the_images() {
    assert!(of(&[(FILESYSTEM_READ, "/a")], &[(FILESYSTEM_READ, "a")]).is_err());
}

proptest! {
    #[test]
    fn reading_never_panics(
        key in proptest::sample::select(vec![
            FILESYSTEM, FILESYSTEM_READ, FILESYSTEM_WRITE, FILESYSTEM_MAX_FILES, FILESYSTEM_MAX_SIZE,
            NETWORK, NETWORK_HOSTS, NETWORK_PORTS, NETWORK_MAX_CONNECTIONS]),
        value in "[a-z0-9:/.,*%_-]{1,20}|\\PC{1,20}",
    ) {
        let found = BTreeMap::from([(key.to_owned(), value)]);
        if let Ok(annotations) = Annotations::of_pod(&found) {
            let _request = parse(&Annotations::default(), &annotations);
        }
    }
}
