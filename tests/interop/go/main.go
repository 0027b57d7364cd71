// Command crosscheck verifies a modelvault audit log's checkpoints and proofs with golang.org/x/mod/sumdb.
//
// It reads one JSON object from standard input and exits with a message if anything in it does not verify.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type input struct {
	VerifierKey string   // of the epoch that signed both checkpoints
	Old, New    string   // signed checkpoints of the same log
	Records     [][]byte // the log's lines, to build the tree anew
	Inclusion   []struct {
		Index int64
		Path  [][]byte
	}
	Consistency [][]byte
}

func main() {
	log.SetFlags(0)
	var in input
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		log.Fatal("input: ", err)
	}
	verifier, err := note.NewVerifier(in.VerifierKey)
	if err != nil {
		log.Fatal("verifier key: ", err)
	}
	oldSize, oldRoot := open(in.Old, verifier)
	size, root := open(in.New, verifier)

	if built := build(in.Records); built != root || int64(len(in.Records)) != size {
		log.Fatalf("root of %d records is %v, the checkpoint of %d says %v", len(in.Records), built, size, root)
	}
	for _, p := range in.Inclusion {
		leaf := tlog.RecordHash(in.Records[p.Index])
		if err := tlog.CheckRecord(hashes(p.Path), size, root, p.Index, leaf); err != nil {
			log.Fatalf("inclusion of %d: %v", p.Index, err)
		}
	}
	if err := tlog.CheckTree(hashes(in.Consistency), size, root, oldSize, oldRoot); err != nil {
		log.Fatal("consistency: ", err)
	}
	fmt.Printf("ok: %d inclusion proofs, consistency from %d to %d\n", len(in.Inclusion), oldSize, size)
}

func open(signed string, verifier note.Verifier) (int64, tlog.Hash) {
	opened, err := note.Open([]byte(signed), note.VerifierList(verifier))
	if err != nil {
		log.Fatal("note: ", err)
	}
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		log.Fatal("size: ", err)
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		log.Fatal("root: ", err)
	}
	return size, root
}

func hashes(raw [][]byte) []tlog.Hash {
	result := make([]tlog.Hash, len(raw))
	for i := range raw {
		copy(result[i][:], raw[i])
	}
	return result
}

func build(records [][]byte) tlog.Hash {
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		found := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			found[i] = stored[index]
		}
		return found, nil
	})
	for i, record := range records {
		added, err := tlog.StoredHashes(int64(i), record, reader)
		if err != nil {
			log.Fatal("tree: ", err)
		}
		stored = append(stored, added...)
	}
	root, err := tlog.TreeHash(int64(len(records)), reader)
	if err != nil {
		log.Fatal("tree: ", err)
	}
	return root
}
