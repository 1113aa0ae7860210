// What can be built, and how. Plain `docker buildx bake` builds the three images for this machine and loads them into Docker.
//
//   docker buildx bake                 the images for this machine
//   docker buildx bake images          the images for every platform; add --push to send them to REGISTRY
//   docker buildx bake binaries        the programs alone, for every platform, in dist/
//   docker buildx bake release --push  like images, with provenance and a list of modules attached
//   docker buildx bake sbom-scanner --push   what makes that list where BuildKit's own scanner cannot be pulled; SBOM_SCANNER names it to release
//   docker buildx bake airgap          one OCI layout a platform in dist/airgap; scripts/airgap packs them for K3s
//
// Every variable can be set from the environment: TAG=1.2.3 REGISTRY=registry.example/holdfast docker buildx bake images

variable "REGISTRY" {
  description = "Registry and folder of the images; k3s/ and cloud-api/kubernetes/ name the same one."
  default     = "ghcr.io/holdfast-edge"
}

variable "TAG" {
  description = "Tag of the images. The manifests ask for dev until an overlay names another."
  default     = "dev"
}

variable "REVISION" {
  description = "Commit for the images' label: REVISION=$(git rev-parse HEAD). The programs find theirs by themselves."
  default     = ""
}

variable "SOURCE_DATE_EPOCH" {
  description = "Time stamp of everything in the images, so that the same sources make the same bytes."
  default     = "0"
}

// null leaves the argument out: the Dockerfile says which Go, and the go command which proxy.
variable "GO_VERSION" { default = null }
variable "GOPROXY" { default = null }

variable "SBOM" {
  description = "Whether release attaches a list of packages."
  default     = true
}

variable "SBOM_SCANNER" {
  description = "Image that makes that list, as BuildKit pulls it; empty: BuildKit's own, from Docker Hub."
  default     = ""
}

// No K3s and no Dapr image of other makers exists for arm/v6, but the agent and its sidecar run on a Pi Zero without them.
variable "EDGE_PLATFORMS" { default = ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6"] }
variable "CLOUD_PLATFORMS" { default = ["linux/amd64", "linux/arm64", "linux/arm/v7"] }

function "tags" {
  params = [name]
  result = ["${REGISTRY}/${name}:${TAG}"]
}

group "default" { targets = ["edge-agent", "daprd-edge", "cloud-api"] }
group "images" { targets = ["edge-agent-all", "daprd-edge-all", "cloud-api-all"] }
group "release" { targets = ["edge-agent-release", "daprd-edge-release", "cloud-api-release"] }

target "_common" {
  context    = "."
  dockerfile = "scripts/images/Dockerfile"
  args = {
    GO_VERSION        = GO_VERSION
    GOPROXY           = GOPROXY
    SOURCE_DATE_EPOCH = SOURCE_DATE_EPOCH
    // A build from a git URL keeps its history, which the version comes from.
    BUILDKIT_CONTEXT_KEEP_GIT_DIR = "1"
  }
}

target "_image" {
  inherits = ["_common"]
  labels = {
    "org.opencontainers.image.vendor"   = "Holdfast"
    "org.opencontainers.image.licenses" = "Apache-2.0"
    "org.opencontainers.image.source"   = "https://github.com/holdfast-edge/holdfast"
    "org.opencontainers.image.version"  = TAG
    "org.opencontainers.image.revision" = REVISION != "" ? REVISION : null
  }
  // A plain engine cannot load an index, and an attestation makes one.
  attest = ["type=provenance,disabled=true"]
  output = ["type=docker,rewrite-timestamp=true"]
}

target "edge-agent" {
  inherits = ["_image"]
  target   = "edge-agent"
  tags     = tags("edge-agent")
  labels = {
    "org.opencontainers.image.title"       = "Holdfast edge agent"
    "org.opencontainers.image.description" = "Keeps MQTT readings on disk until the cloud's database has them"
  }
}

target "daprd-edge" {
  inherits = ["_image"]
  target   = "daprd-edge"
  tags     = tags("daprd-edge")
  labels = {
    "org.opencontainers.image.title"       = "Holdfast sidecar"
    "org.opencontainers.image.description" = "Dapr's runtime with Holdfast's components, tolerant of a missing broker"
  }
}

target "cloud-api" {
  inherits = ["_image"]
  target   = "cloud-api"
  tags     = tags("cloud-api")
  labels = {
    "org.opencontainers.image.title"       = "Holdfast cloud API"
    "org.opencontainers.image.description" = "Stores readings once, proves what is missing, and shows both"
  }
}

target "_all" {
  output = ["type=image,rewrite-timestamp=true"]
}

target "edge-agent-all" {
  inherits  = ["edge-agent", "_all"]
  platforms = EDGE_PLATFORMS
}

target "daprd-edge-all" {
  inherits  = ["daprd-edge", "_all"]
  platforms = EDGE_PLATFORMS
}

target "cloud-api-all" {
  inherits  = ["cloud-api", "_all"]
  platforms = CLOUD_PLATFORMS
}

target "_release" {
  attest = concat(["type=provenance,mode=max"], SBOM ? [SBOM_SCANNER != "" ? "type=sbom,generator=${SBOM_SCANNER}" : "type=sbom"] : [])
}

target "edge-agent-release" { inherits = ["edge-agent-all", "_release"] }
target "daprd-edge-release" { inherits = ["daprd-edge-all", "_release"] }
target "cloud-api-release" { inherits = ["cloud-api-all", "_release"] }

// Lists what a Go program says it was made of; runs on the machine that builds.
target "sbom-scanner" {
  inherits = ["_common"]
  target   = "sbom-scanner"
  tags     = tags("sbom-scanner")
  attest   = ["type=provenance,disabled=true"]
}

// dist/linux_arm64/edge-agent and so on, each with a CycloneDX list of its modules.
target "binaries" {
  inherits = ["_common"]
  matrix   = { program = ["edge-agent", "daprd-edge", "cloud-api"] }
  name      = "binary-${program}"
  target    = "${program}-binary"
  platforms = program == "cloud-api" ? CLOUD_PLATFORMS : EDGE_PLATFORMS
  output    = ["type=local,dest=dist"]
  attest    = ["type=provenance,disabled=true"]
}

// What a Pi without a network needs, under the names that k3s/ asks for. K3s itself has no arm/v6.
target "airgap" {
  matrix = {
    program  = ["edge-agent", "daprd-edge"]
    platform = ["linux/amd64", "linux/arm64", "linux/arm/v7"]
  }
  name      = "airgap-${program}-${replace(replace(platform, "linux/", ""), "/", "")}"
  inherits  = [program]
  platforms = [platform]
  output    = ["type=oci,tar=false,rewrite-timestamp=true,dest=dist/airgap/${replace(replace(platform, "linux/", ""), "/", "")}"]
}
