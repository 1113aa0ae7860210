package main

import (
	k8snames "github.com/dapr/components-contrib/nameresolution/kubernetes"
	"github.com/dapr/components-contrib/nameresolution/mdns"
	inmemory "github.com/dapr/components-contrib/pubsub/in-memory"
	k8ssecrets "github.com/dapr/components-contrib/secretstores/kubernetes"
	"github.com/dapr/components-contrib/secretstores/local/env"
	"github.com/dapr/components-contrib/secretstores/local/file"
	"github.com/dapr/dapr/pkg/components/bindings"
	"github.com/dapr/dapr/pkg/components/configuration"
	"github.com/dapr/dapr/pkg/components/conversation"
	"github.com/dapr/dapr/pkg/components/crypto"
	"github.com/dapr/dapr/pkg/components/lock"
	"github.com/dapr/dapr/pkg/components/middleware/http"
	"github.com/dapr/dapr/pkg/components/nameresolution"
	"github.com/dapr/dapr/pkg/components/pubsub"
	"github.com/dapr/dapr/pkg/components/secretstores"
	"github.com/dapr/dapr/pkg/components/state"
	"github.com/dapr/dapr/pkg/runtime/registry"
	"github.com/dapr/kit/logger"

	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/jetstream"
	"github.com/holdfast-edge/holdfast/dapr-components/sidecar/internal/patient"
)

// components lists everything that a component file may name. Anything else is refused by the runtime when it loads the file.
func components() *registry.Options {
	log := logger.NewLogger("dapr.contrib")

	buses := pubsub.NewRegistry()
	buses.Logger = log
	buses.RegisterComponent(jetstream.New, "jetstream")
	buses.RegisterComponent(patient.MQTT().Wrap(), "mqtt3", "mqtt")
	buses.RegisterComponent(patient.Redis().Wrap(), "redis")
	buses.RegisterComponent(patient.RabbitMQ().Wrap(), "rabbitmq")
	buses.RegisterComponent(patient.Kafka().Wrap(), "kafka")
	buses.RegisterComponent(inmemory.New, "in-memory")

	secrets := secretstores.NewRegistry()
	secrets.Logger = log
	secrets.RegisterComponent(k8ssecrets.NewKubernetesSecretStore, "kubernetes")
	secrets.RegisterComponent(file.NewLocalSecretStore, "local.file")
	secrets.RegisterComponent(env.NewEnvSecretStore, "local.env")

	names := nameresolution.NewRegistry()
	names.Logger = log
	names.RegisterComponent(mdns.NewResolver, "mdns")
	names.RegisterComponent(k8snames.NewResolver, "kubernetes")

	return registry.NewOptions().
		WithPubSubs(buses).
		WithSecretStores(secrets).
		WithNameResolutions(names).
		WithStateStores(state.NewRegistry()).
		WithConfigurations(configuration.NewRegistry()).
		WithLocks(lock.NewRegistry()).
		WithBindings(bindings.NewRegistry()).
		WithCryptoProviders(crypto.NewRegistry()).
		WithHTTPMiddlewares(http.NewRegistry()).
		WithConversations(conversation.NewRegistry())
}
