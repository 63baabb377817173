"""What the campaigns share: starting a process and watching it, ratios, and what the machine can do."""

import json
import os
import statistics
import subprocess
import tempfile
import time


def run(command):
    """The JSON that a command prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def busy_seconds():
    """Of all cores since the start of the machine, time taken by the hypervisor's others included."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _iowait, *others = map(int, file.readline().split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def watched(command):
    """Runs a command; its output, peak RSS, and the part of all cores that others took meanwhile.

    A started process inherits the peak RSS of who starts it, so this one has to stay small: no
    import of torch here.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started, busy = time.monotonic(), busy_seconds()
        process = subprocess.Popen(list(map(str, command)), stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, busy = time.monotonic() - started, busy_seconds() - busy
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        output, errors = out.read().decode(), err.read().decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{errors[-2000:]}")
    others = busy - usage.ru_utime - usage.ru_stime
    return dict(
        output=output, seconds=seconds, peak_rss_bytes=usage.ru_maxrss * 1024,
        others=max(0.0, others) / (seconds * os.cpu_count()),
    )


def compare(name, test, ours, theirs, unit):
    ratios = [a / b for a, b in zip(ours, theirs)]
    return dict(model=name, test=test, unit=unit, ours=ours, theirs=theirs,
                ratio=statistics.median(ratios), ratio_range=(min(ratios), max(ratios)))


def machine(puna, threads):
    """Bytes read and operations done per second, by what is measured."""
    limits = run([puna, "bench", "--machine", "-t", threads, "--json"])["machine"]["all_threads"]
    peak = limits["peaks"][-1] if limits["peaks"] else {}
    flops = {"read": limits["read_bytes_per_second"]}
    for key in ("f32_flops_per_second", "bf16_flops_per_second", "int8_ops_per_second"):
        if peak.get(key):
            flops[key.split("_")[0]] = peak[key]
    return flops


def cpu_name():
    with open("/proc/cpuinfo") as file:
        names = (line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
        return next(names, "unknown CPU")


def widen(limits, seen):
    """The least and the most that the machine could do, with one more measurement."""
    for key, value in seen.items():
        low, high = limits.get(key, (value, value))
        limits[key] = (min(low, value), max(high, value))
