#!/usr/bin/env python3
"""Compares the back end's header (backends/ascend/acl.h) with the vendor's own headers inside a PyPI wheel of torch-npu:
the type of every function, the value of every constant and the layout of every struct, by static_assert (in C++, because the vendor's
headers are no C).

    abi_check.py [VERSION | WHEEL | FOLDER ...]     (of torch-npu; default 2.1.0.post12 for ACL 1.12 and 2.14.0 for ACL 1.17)

A folder is an unpacked wheel or an installation of CANN. Without arguments the installation that ASCEND_HOME_PATH names is compared as
well. The wheel's headers hold the runtime and HCCL, an installation's the operators too; what is lacking is counted, not passed over.
Exit status: 0 everything found agrees, 1 something differs, 77 nothing could be compared (no wheel, no compiler). Nothing of the wheel
is kept.
"""
import glob, os, re, shutil, subprocess, sys, tempfile, zipfile

HEADER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../backends/ascend/acl.h")
CXX = os.environ.get("CXX", "g++")


def ours():
    """Functions (name -> prototype) and constants (name -> value) of our header."""
    text = re.sub(r"/\*.*?\*/", " ", open(HEADER).read(), flags=re.S)
    text = "\n".join(l for l in text.splitlines() if not l.startswith("#"))
    constants = {n: int(v, 0) for n, v in re.findall(r"\b(\w+) = (-?\w+),", text)}
    text = re.sub(r"\{[^{}]*\}", " ", text.replace('extern "C" {', " "))
    functions = {}
    for statement in text.split(";"):
        statement = " ".join(statement.split())
        found = re.match(r"^(?!typedef)[\w *]*?\b((?:acl|Hccl)\w+)\(.*\)$", statement)
        if found:
            functions[found.group(1)] = statement
    return functions, constants


def download(version, folder):
    """The wheel of a version, for whatever Python it was built."""
    for minor in ("8", "9", "10", "11", "12", "13"):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
        command += ["--python-version", f"3.{minor}", "--implementation", "cp", "--abi", f"cp3{minor}", "-d", folder]
        for platform in ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64"):
            command += ["--platform", platform]
        if subprocess.run(command + [f"torch-npu=={version}"], capture_output=True).returncode == 0:
            return glob.glob(folder + "/*.whl")[0]
    return None


def headers(wheel, folder):
    """Extracts the C headers of a wheel; the folders that #include them."""
    with zipfile.ZipFile(wheel) as z:
        for name in z.namelist():
            if re.search(r"third_party/(acl|hccl)/.*\.h$", name):
                z.extract(name, folder)


def include_roots(folder):
    """Of an installation, or of an unpacked wheel."""
    installed = [folder + "/include", *glob.glob(folder + "/*-linux/include")]
    installed += [folder + "/opp/built-in/op_impl/ai_core/tbe/op_api/include"]
    roots = {r + "/" for r in installed if any(os.path.isdir(f"{r}/{d}") for d in ("acl", "aclnn", "aclnnop"))}
    if roots:
        return sorted(roots)
    for header in ("acl/acl.h", "hccl/hccl.h"):
        for path in glob.glob(f"{folder}/**/{header}", recursive=True):
            root = path[: -len(header)]
            roots.add(root)
            # The wheel's copies name each other from the folder above `third_party`.
            if "/third_party/" in root:
                roots.add(root[: root.index("third_party/")])
    return sorted(roots)


def compile_with(source, roots, folder, *flags):
    path = os.path.join(folder, "compare.cc")
    with open(path, "w") as f:
        f.write(source)
    # The vendor's headers come as system headers: only our assertions are judged.
    includes = [a for r in roots for a in ("-isystem", r)]
    command = [CXX, "-std=c++17", "-Wno-deprecated-declarations", *includes, *flags, path]
    return subprocess.run(command, capture_output=True, text=True)


def operator_headers(roots, functions):
    """Those of an installation that declare operators we use."""
    wanted = {f for f in functions if f.startswith("aclnn")}
    found = []
    for root in roots:
        for path in sorted(glob.glob(root + "aclnnop/*.h")):
            if wanted & set(re.findall(r"\b(aclnn\w+)\s*\(", open(path, errors="replace").read())):
                found.append(path[len(root):])
    return list(dict.fromkeys(found))


# Structs that are passed by pointer, with their bytes and alignment in our header.
LAYOUTS = {"HcclRootInfo": (4108, 1)}


def compare(name, roots, folder):
    functions, constants = ours()
    headers = ("acl/acl.h", "aclnn/acl_meta.h", "hccl/hccl_types.h", "hccl/hccl.h")
    found = [h for h in headers if any(os.path.exists(r + h) for r in roots)] + operator_headers(roots, functions)
    base = "".join(f"#include <{h}>\n" for h in found)
    expanded = compile_with(base, roots, folder, "-E", "-P")
    macros = compile_with(base, roots, folder, "-E", "-dM")
    if expanded.returncode:
        print(f"{name}: the vendor's headers cannot be read:\n{expanded.stderr[-2000:]}")
        return False
    known = set(re.findall(r"\b(\w+)\s*\(", expanded.stdout))
    values = set(re.findall(r"\b(\w+)\b", expanded.stdout)) | set(re.findall(r"#define (\w+)", macros.stdout))
    there = [f for f in functions if f in known]
    numbers = [c for c in constants if c in values]
    lines = [base, "#include <type_traits>"]
    for f in there:
        prototype = re.sub(rf"\b{f}\(", f"ours_{f}(", functions[f], count=1)
        lines.append(f"typedef {prototype};")
        lines.append(f'static_assert(std::is_same<decltype({f}), ours_{f}>::value, "type of {f}");')
    lines += [f'static_assert(({c}) == {constants[c]}, "value of {c}");' for c in numbers]
    layouts = [s for s in LAYOUTS if s in values]
    for s in layouts:
        size, alignment = LAYOUTS[s]
        lines.append(f'static_assert(sizeof({s}) == {size} && alignof({s}) == {alignment}, "layout of {s}");')
    result = compile_with("\n".join(lines) + "\n", roots, folder, "-fsyntax-only")
    version = re.search(r"ACL_MAJOR_VERSION\s+(\d+)[\s\S]*?ACL_MINOR_VERSION\s+(\d+)", macros.stdout)
    acl = f", ACL {version.group(1)}.{version.group(2)}" if version else ""
    wrong = re.findall(r'static assertion failed: "?([^"\n]*)"?', result.stderr)
    runtime = [f for f in functions if not f.startswith("aclnn")]
    lacking = sorted(set(runtime) - set(there))
    if result.returncode:
        print(f"{name}{acl}: {len(wrong)} DIFFERENCES: {', '.join(wrong) or result.stderr[-2000:]}")
        return False
    if len(there) < 60 or len(numbers) < 100:
        print(f"{name}{acl}: only {len(there)} functions and {len(numbers)} values were found: the headers were not understood")
        return False
    agree = f"{len(there)} function types, {len(numbers)} values and {len(layouts)} struct layouts"
    print(f"{name}{acl}: {agree} agree with the vendor's headers")
    operators = [f for f in functions if f.startswith("aclnn") and f not in known]
    named = f": {' '.join(operators)}" if 0 < len(operators) < len(functions) - len(runtime) else ""
    print(f"  not in these headers: {len(operators)} operator functions{named}, and {len(lacking)} others: {' '.join(lacking)}")
    missing = sorted(set(constants) - set(numbers))
    print(f"  values not in these headers: {' '.join(missing) or 'none'}")
    return True


def catches_mistakes(roots, folder):
    """That the comparison can fail: two parameters exchanged, one value wrong."""
    source = "#include <acl/acl.h>\n#include <type_traits>\n"
    source += "typedef aclError ours(void *devPtr, int32_t value, size_t maxCount, size_t count);\n"
    source += 'static_assert(std::is_same<decltype(aclrtMemset), ours>::value, "type");\n'
    source += 'static_assert(ACL_BF16 == 28, "value");\n'
    return compile_with(source, roots, folder, "-fsyntax-only").stderr.count("static assertion failed") == 2


def main():
    asked = sys.argv[1:]
    if not asked:
        asked = ["2.1.0.post12", "2.14.0"]
        home = os.environ.get("ASCEND_HOME_PATH")
        if home and include_roots(home):
            asked.append(home)
        else:
            print(f"no installation to compare with: ASCEND_HOME_PATH is {home or 'not set'}" + (", which has no headers" if home else ""))
    if shutil.which(CXX) is None:
        print("SKIPPED: comparing with the vendor's headers needs a C++ compiler (CXX)")
        return 77
    good, done = True, 0
    for item in asked:
        with tempfile.TemporaryDirectory() as folder:
            if os.path.isdir(item):
                roots = include_roots(item)
            else:
                wheel = item if item.endswith(".whl") else download(item, folder)
                if wheel is None:
                    print(f"SKIPPED: torch-npu {item} cannot be downloaded")
                    continue
                headers(wheel, folder)
                roots = include_roots(folder)
            if not roots:
                print(f"SKIPPED: {item} holds no headers of ACL")
                continue
            done += 1
            good &= compare(item if os.path.isdir(item) else f"torch-npu {os.path.basename(item)}", roots, folder)
            if not catches_mistakes(roots, folder):
                print("the comparison lets mistakes through")
                good = False
    return 77 if done == 0 else int(not good)


sys.exit(main())
