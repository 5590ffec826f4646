# Run by mmdebstrap once the packages are in the new root, which is $1.
set -eu
root=$1

# The security archive's kernel for clouds has NVMe and ext4 built in: it boots without an initial ramdisk.
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kernel=$(apt-cache pkgnames linux-image-6.12 |
    grep -E '^linux-image-6\.12\.[0-9]+\+deb12-cloud-amd64-unsigned$' | sort -V | tail -n 1)
cd "$work"
apt-get -o APT::Sandbox::User=root download "$kernel"
dpkg-deb -x ./*.deb unpacked
version=$(ls unpacked/lib/modules)
cp -a unpacked/lib/modules "$root/usr/lib/"
cp "unpacked/boot/vmlinuz-$version" "$root/boot/vmlinuz"
chroot "$root" depmod "$version"

# Nobody logs in, nothing is to be kept, nothing happens later.
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/usr/share/doc/*
for unit in getty@tty1.service serial-getty@ttyS0.service systemd-timesyncd.service systemd-networkd.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
: >"$root/etc/machine-id"

cat >"$root/etc/systemd/system/hybrid-check.service" <<'UNIT'
[Unit]
Description=Checks of the shim
Requires=dev-disk-by\x2did-virtio\x2dpayload.device dev-disk-by\x2did-virtio\x2dresults.device
After=dev-disk-by\x2did-virtio\x2dpayload.device dev-disk-by\x2did-virtio\x2dresults.device dbus.socket

[Service]
ExecStartPre=/bin/mkdir -p /payload
ExecStartPre=/bin/mount -o ro /dev/disk/by-id/virtio-payload /payload
ExecStart=/bin/sh -c 'sh /payload/check.sh >/dev/disk/by-id/virtio-results 2>/dev/console </dev/null'
ExecStopPost=/bin/sync
ExecStopPost=/bin/systemctl poweroff --force --force
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../hybrid-check.service "$root/etc/systemd/system/multi-user.target.wants/"
