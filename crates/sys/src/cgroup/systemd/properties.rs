//! Limits in systemd's words.

use zbus::zvariant::Value;

use super::super::resources::{Place, Setting};

/// systemd's word for "no limit".
const INFINITY: u64 = u64::MAX;

/// The period of a quota unless it is said, in microseconds.
const DEFAULT_PERIOD: &str = "100000";

/// In microseconds: a quota per second of processor time is kept by systemd in
/// whole hundredths; rounded down, a reload would tighten the limit.
const SECOND: u64 = 1_000_000;
const HUNDREDTH: u64 = SECOND / 100;

/// A property of a unit.
pub(super) type Property = (&'static str, Value<'static>);

/// A limit as systemd knows it; what systemd does not know is the kernel's alone.
pub(super) fn of_limit(limit: &Place) -> Vec<Property> {
    let value = limit.value.trim();
    let one = |name, value: Option<u64>| {
        value.map(|value| (name, Value::from(value))).into_iter().collect()
    };
    let set = |name, mask: Option<Vec<u8>>| {
        mask.map(|mask| (name, Value::from(mask))).into_iter().collect()
    };
    match limit.file.as_str() {
        "memory.max" => one("MemoryMax", number(value)),
        "memory.high" => one("MemoryHigh", number(value)),
        "memory.low" => one("MemoryLow", number(value)),
        "memory.min" => one("MemoryMin", number(value)),
        "memory.swap.max" => one("MemorySwapMax", number(value)),
        "pids.max" => one("TasksMax", number(value)),
        "cpu.weight" => one("CPUWeight", number(value)),
        // A weight of 0 is its word for idle, and none for what is not.
        "cpu.idle" => one("CPUWeight", Some(if value == "1" { 0 } else { INFINITY })),
        "cpu.max" => cpu_quota(value),
        "cpuset.cpus" => set("AllowedCPUs", mask(value)),
        "cpuset.mems" => set("AllowedMemoryNodes", mask(value)),
        // There are lines for single devices as well, in no order.
        "io.weight" => {
            let all = value.lines().find_map(|line| line.strip_prefix("default "));
            one("IOWeight", all.and_then(number))
        }
        _ => Vec::new(),
    }
}

fn number(text: &str) -> Option<u64> {
    if text == "max" { Some(INFINITY) } else { text.parse().ok() }
}

/// `QUOTA [PERIOD]`, in microseconds.
fn cpu_quota(text: &str) -> Vec<Property> {
    let (quota, period) = text.split_once(' ').unwrap_or((text, DEFAULT_PERIOD));
    let (Some(quota), Ok(period @ 1..)) = (number(quota), period.parse::<u64>()) else {
        return Vec::new();
    };
    let per_second = match quota {
        INFINITY => INFINITY,
        quota => per_second(quota, period),
    };
    vec![("CPUQuotaPerSecUSec", per_second.into()), ("CPUQuotaPeriodUSec", period.into())]
}

fn per_second(quota: u64, period: u64) -> u64 {
    (quota.saturating_mul(SECOND) / period).div_ceil(HUNDREDTH) * HUNDREDTH
}

/// Rounds a processor quota as systemd does, which sets its own when it is told and
/// at every reload: the limit would change by itself otherwise.
pub(in super::super) fn round_as_kept(setting: &mut Setting) {
    for limit in setting.places.iter_mut().filter(|limit| limit.file == "cpu.max") {
        let (quota, period) = limit.value.split_once(' ').unwrap_or((&limit.value, DEFAULT_PERIOD));
        if let (Ok(exact), Ok(period @ 1..)) = (quota.parse::<u64>(), period.parse::<u64>()) {
            let kept = per_second(exact, period).saturating_mul(period) / SECOND;
            limit.value = limit.value.replacen(quota, &kept.to_string(), 1);
        }
    }
}

/// A list such as `0-2,7` as bits, the lowest first.
fn mask(list: &str) -> Option<Vec<u8>> {
    /// More than any kernel is built for.
    const MOST: usize = 1 << 16;
    let mut bytes = Vec::new();
    if list.is_empty() {
        return Some(bytes);
    }
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST {
            return None;
        }
        for each in first..=last {
            if bytes.len() <= each / 8 {
                bytes.resize(each / 8 + 1, 0);
            }
            bytes[each / 8] |= 1 << (each % 8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_in_systemds_words() {
        let table: [(&str, &str, &[Property]); 15] = [
            ("memory.max", "4096", &[("MemoryMax", 4096u64.into())]),
            ("memory.max", "max", &[("MemoryMax", INFINITY.into())]),
            ("memory.max", "1G", &[]),
            ("pids.max", "7", &[("TasksMax", 7u64.into())]),
            ("cpu.weight", "20", &[("CPUWeight", 20u64.into())]),
            ("cpu.idle", "1", &[("CPUWeight", 0u64.into())]),
            ("cpu.idle", "0", &[("CPUWeight", INFINITY.into())]),
            ("memory.high", "8192", &[("MemoryHigh", 8192u64.into())]),
            ("io.weight", "default 50\n8:0 7", &[("IOWeight", 50u64.into())]),
            ("io.weight", "8:0 7", &[]),
            ("io.max", "8:0 rbps=1", &[]),
            (
                "cpu.max",
                "50000 100000",
                &[
                    ("CPUQuotaPerSecUSec", 500_000u64.into()),
                    ("CPUQuotaPeriodUSec", 100_000u64.into()),
                ],
            ),
            (
                "cpu.max",
                "max",
                &[
                    ("CPUQuotaPerSecUSec", INFINITY.into()),
                    ("CPUQuotaPeriodUSec", 100_000u64.into()),
                ],
            ),
            ("cpuset.cpus", "", &[("AllowedCPUs", Vec::<u8>::new().into())]),
            ("cpuset.cpus", "0-2,9", &[("AllowedCPUs", vec![0b111u8, 0b10].into())]),
        ];
        for (file, value, expected) in table {
            let place = Place { file: file.to_owned(), value: value.to_owned() };
            assert_eq!(of_limit(&place), expected, "{file} {value}");
        }
    }

    #[test]
    fn a_fraction_of_a_hundredth_is_rounded_up() {
        let told = cpu_quota("33333 100000");
        assert_eq!(told[0], ("CPUQuotaPerSecUSec", 340_000u64.into()));
    }

    #[test]
    fn a_quota_is_rounded_as_systemd_will_keep_it() {
        let table = [
            ("33333 100000", "34000 100000"),
            ("50000 100000", "50000 100000"),
            ("33333", "34000"),
            ("max 100000", "max 100000"),
            ("1000 20000", "1000 20000"),
        ];
        for (given, kept) in table {
            let mut setting = Setting::new("cpu", "cpu.quota", "cpu.max", given);
            round_as_kept(&mut setting);
            assert_eq!(setting.places[0].value, kept);
        }
    }

    #[test]
    fn a_list_that_is_none_has_no_mask() {
        for list in ["a", "0-", "-1", "0-99999999"] {
            assert_eq!(mask(list), None, "{list:?}");
        }
        assert_eq!(mask("3-1"), Some(Vec::new()));
    }
}
