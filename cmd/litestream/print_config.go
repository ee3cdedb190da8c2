package main

import (
	"context"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/benbjohnson/litestream/s3"
)

// printConfig prints the configuration in force: with the defaults, what
// replicas inherit and all paths expanded, without secrets.
func (a *app) printConfig(ctx context.Context, cfg *Config) error {
	root := cfg.resolvedRoot()
	root.ShutdownTimeout = rawScalar{textNode(cfg.shutdownTimeout.String())}
	root.DBs = nil
	for _, db := range cfg.entries() {
		r := cfg.resolved(db)
		if err := r.Replica.resolveS3(ctx); err != nil {
			return err
		}
		root.DBs = append(root.DBs, r)
	}
	if cfg.MultiDB != nil {
		m := cfg.MultiDB.resolved()
		template := *m.ReplicaTemplate
		template.shared = nil
		if err := template.resolveS3(ctx); err != nil {
			return err
		}
		m.ReplicaTemplate = &template
		root.MultiDB = m
	}
	out, err := yaml.Marshal(settingsNode(scopeRoot, reflect.ValueOf(root).Elem()))
	if err != nil {
		return fmt.Errorf("encode yaml: %w", err)
	}
	_, err = a.stdout.Write(out)
	return err
}

// resolveS3 writes down what an S3 client makes of what the replica leaves open.
func (c *ReplicaConfig) resolveS3(ctx context.Context) error {
	if c.replicaType() != replicaTypeS3 {
		return nil
	}
	plain := *c
	plain.shared = nil
	if plain.URL != "" {
		head, _, query := splitTemplateURL(plain.URL)
		plain.URL = head + query
	}
	client, err := newReplicaClient(&plain)
	if err != nil {
		return err
	}
	if err := client.Init(ctx); err != nil {
		return err
	}
	o := client.(*s3.ReplicaClient).InForce()
	c.Region, c.Endpoint, c.SkipVerify = o.Region, o.Endpoint, o.SkipVerify
	c.ForcePathStyle, c.SignPayload = &o.ForcePathStyle, &o.SignPayload
	c.SignAcceptEncoding, c.RequireContentMD5, c.PutObjectContentMD5 = &o.SignAcceptEncoding, &o.RequireContentMD5, &o.PutObjectContentMD5
	partSize := ByteSize(o.PartSize)
	c.PartSize, c.Concurrency = &partSize, &o.Concurrency
	c.StorageClass = o.StorageClass
	return nil
}

func textNode(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}

// settingsNode returns the keys of a scope that have a value, in the order of
// the table of keys.
func settingsNode(s scope, v reflect.Value) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range configKeys {
		if k.scope != s || k.ignored() {
			continue
		}
		f, ok := fieldByKey(v, k.name)
		if !ok {
			continue
		}
		if n := settingNode(k, f); n != nil {
			m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: k.name}, n)
		}
	}
	return m
}

// settingNode returns the value of a key without what is secret in it, or nil
// if there is none.
func settingNode(k configKey, v reflect.Value) *yaml.Node {
	switch {
	case v.Kind() == reflect.Pointer && v.IsNil():
		return nil
	case v.Kind() == reflect.Pointer:
		return settingNode(k, v.Elem())
	case v.Type() == reflect.TypeFor[rawScalar]():
		if n := v.Interface().(rawScalar).node; n != nil {
			return textNode(n.Value)
		}
		return nil
	case v.Kind() == reflect.Struct:
		if n := settingsNode(k.child, v); len(n.Content) > 0 {
			return n
		}
		return nil
	case v.Kind() == reflect.Slice:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			if n := settingNode(k, v.Index(i)); n != nil {
				list.Content = append(list.Content, n)
			}
		}
		if len(list.Content) == 0 {
			return nil
		}
		return list
	}
	return scalarNode(k.name, v)
}

// scalarNode returns a value of a basic kind in a form that is read as the same.
func scalarNode(key string, v reflect.Value) *yaml.Node {
	switch x := v.Interface().(type) {
	case time.Duration:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: x.String()}
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: strconv.FormatBool(x)}
	case uint32:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprintf("%#o", x)} // permission bits
	case string, secret:
		if text := shown(key, fmt.Sprint(x)); text != "" {
			return textNode(text)
		}
		return nil
	default: // an integer
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(x)}
	}
}
