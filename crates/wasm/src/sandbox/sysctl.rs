//! Kernel parameters: only those that belong to a namespace the container is in.

use std::collections::HashMap;
use std::path::PathBuf;

use sys::namespace::Kind;

use super::PlanError;

/// System V IPC parameters, which an IPC namespace has for itself.
const OF_IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Checks the spec's parameters and brings them into a fixed order.
///
/// # Errors
/// One that would change the host.
pub(super) fn checked(
    asked: Option<&HashMap<String, String>>,
    namespaces: &[(Kind, Option<PathBuf>)],
) -> Result<Vec<(String, String)>, PlanError> {
    let mut list: Vec<(String, String)> =
        asked.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    list.sort();
    for (name, _) in &list {
        let refuse = |reason| Err(PlanError::Sysctl { name: name.clone(), reason });
        match namespace_of(name) {
            None => return refuse("it belongs to no namespace of a container"),
            Some(kind) if namespaces.iter().all(|(each, _)| *each != kind) => {
                return refuse("the container shares that namespace with the host");
            }
            Some(_) => {}
        }
    }
    Ok(list)
}

fn namespace_of(name: &str) -> Option<Kind> {
    if name.contains("..") || name.contains("//") || name.starts_with('/') {
        return None;
    }
    match name.replace('/', ".").as_str() {
        "kernel.hostname" | "kernel.domainname" => Some(Kind::Uts),
        plain if OF_IPC.contains(&plain) || plain.starts_with("fs.mqueue.") => Some(Kind::Ipc),
        plain if plain.starts_with("net.") => Some(Kind::Network),
        _ => None,
    }
}

/// The file of a parameter. A name may use slashes where a part of it, such as
/// a network device, has dots.
pub(super) fn file(name: &str) -> PathBuf {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    PathBuf::from("/proc/sys").join(relative)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str) -> Result<Vec<(String, String)>, PlanError> {
        let asked = HashMap::from([(name.to_owned(), "1".to_owned())]);
        checked(Some(&asked), &[(Kind::Network, None), (Kind::Ipc, Some("/x".into()))])
    }

    #[test]
    fn only_parameters_of_the_containers_namespaces_pass() {
        for name in [
            "net.ipv4.ip_forward",
            "net/ipv4/conf/eth0.1/forwarding",
            "kernel.sem",
            "fs.mqueue.msg_max",
        ] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in [
            "kernel.hostname",
            "vm.swappiness",
            "kernel.panic",
            "net/../kernel/panic",
            "/net/x",
            "fs.file-max",
        ] {
            assert!(check(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_name_becomes_its_file() {
        assert_eq!(file("net.ipv4.ip_forward"), PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
        let dotted = file("net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(dotted, PathBuf::from("/proc/sys/net/ipv4/conf/eth0.1/forwarding"));
    }
}
