// Command go-ledger checks a log with Go's own implementation of transparency logs, golang.org/x/mod/sumdb: the
// signature of its checkpoint, the inclusion of every record, and the consistency between every two checkpoints.
//
// Usage: go-ledger <folder>
//
// The folder holds:
//
//	key                the log's verifier key
//	checkpoint         the latest signed checkpoint
//	checkpoints/<size> older signed checkpoints, if any
//	tile/...           tiles and entry bundles, as c2sp.org/tlog-tiles names them
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	height = 8
	width  = 1 << height
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go-ledger <folder>")
		os.Exit(2)
	}
	summary, err := check(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "go-ledger:", err)
		os.Exit(1)
	}
	fmt.Println(summary)
}

func check(folder string) (string, error) {
	key, err := os.ReadFile(filepath.Join(folder, "key"))
	if err != nil {
		return "", err
	}
	verifier, err := note.NewVerifier(strings.TrimSpace(string(key)))
	if err != nil {
		return "", fmt.Errorf("key: %w", err)
	}
	latest, err := readTree(filepath.Join(folder, "checkpoint"), verifier)
	if err != nil {
		return "", err
	}
	trees := []tlog.Tree{latest}
	older, err := filepath.Glob(filepath.Join(folder, "checkpoints", "*"))
	if err != nil {
		return "", err
	}
	for _, path := range older {
		tree, err := readTree(path, verifier)
		if err != nil {
			return "", err
		}
		trees = append(trees, tree)
	}
	sort.Slice(trees, func(i, j int) bool { return trees[i].N < trees[j].N })

	tiles := &tileReader{folder: folder, read: map[string][]byte{}}
	if err := checkRecords(tiles, latest); err != nil {
		return "", err
	}
	pairs := 0
	for i, newer := range trees {
		for _, old := range trees[:i+1] {
			// Go proves nothing about the empty tree: every tree begins with it.
			if old.N == 0 {
				continue
			}
			if err := checkPair(tiles, old, newer); err != nil {
				return "", err
			}
			pairs++
		}
	}
	return fmt.Sprintf("ok: %d records, %d checkpoints, %d pairs", latest.N, len(trees), pairs), nil
}

// readTree opens a signed checkpoint. tlog.ParseTree reads another text, that of the Go checksum database.
func readTree(path string, verifier note.Verifier) (tlog.Tree, error) {
	message, err := os.ReadFile(path)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("%s: %w", path, err)
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("%s: not a checkpoint of %s", path, verifier.Name())
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("%s: %w", path, err)
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return tlog.Tree{}, fmt.Errorf("%s: %w", path, err)
	}
	return tlog.Tree{N: size, Hash: root}, nil
}

// checkRecords proves that each entry of the bundles is the tree's record.
func checkRecords(tiles *tileReader, tree tlog.Tree) error {
	hashes := tlog.TileHashReader(tree, tiles)
	for first := int64(0); first < tree.N; first += width {
		count := tree.N - first
		if count > width {
			count = width
		}
		entries, err := tiles.bundle(first/width, int(count))
		if err != nil {
			return err
		}
		for i, entry := range entries {
			index := first + int64(i)
			proof, err := tlog.ProveRecord(tree.N, index, hashes)
			if err != nil {
				return fmt.Errorf("record %d: %w", index, err)
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("record %d: %w", index, err)
			}
		}
	}
	return nil
}

// checkPair proves that the newer tree begins with the older one.
func checkPair(tiles *tileReader, old, newer tlog.Tree) error {
	proof, err := tlog.ProveTree(newer.N, old.N, tlog.TileHashReader(newer, tiles))
	if err != nil {
		return fmt.Errorf("from %d to %d entries: %w", old.N, newer.N, err)
	}
	if err := tlog.CheckTree(proof, newer.N, newer.Hash, old.N, old.Hash); err != nil {
		return fmt.Errorf("from %d to %d entries: %w", old.N, newer.N, err)
	}
	return nil
}

// tileReader reads tiles from a folder. It names them itself: Tile.Path has the height in it, tlog-tiles does not.
type tileReader struct {
	folder string
	read   map[string][]byte
}

func (r *tileReader) Height() int { return height }

func (r *tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		bytes, err := r.file(strconv.Itoa(tile.L), tile.N, tile.W)
		if err != nil {
			return nil, err
		}
		data[i] = bytes
	}
	return data, nil
}

// bundle reads the entries of a bundle, each after its length in two bytes.
func (r *tileReader) bundle(index int64, count int) ([][]byte, error) {
	rest, err := r.file("entries", index, count)
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(rest) >= 2 {
		length := 2 + int(binary.BigEndian.Uint16(rest))
		if length > len(rest) {
			break
		}
		entries = append(entries, rest[2:length])
		rest = rest[length:]
	}
	if len(rest) > 0 || len(entries) != count {
		return nil, fmt.Errorf("bundle %d: %w", index, errors.New("not as many entries as its name says"))
	}
	return entries, nil
}

func (r *tileReader) file(level string, index int64, w int) ([]byte, error) {
	name := fmt.Sprintf("%03d", index%1000)
	for index >= 1000 {
		index /= 1000
		name = fmt.Sprintf("x%03d/%s", index%1000, name)
	}
	if w < width {
		name += fmt.Sprintf(".p/%d", w)
	}
	path := filepath.Join(r.folder, "tile", level, name)
	if bytes, ok := r.read[path]; ok {
		return bytes, nil
	}
	bytes, err := os.ReadFile(path)
	if err == nil {
		r.read[path] = bytes
	}
	return bytes, err
}
